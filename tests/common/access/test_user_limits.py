"""Limits of users: requests and bytes a second."""

from __future__ import annotations

import pytest

from milena_common.access.rules import parse_user
from milena_common.access.user_limits import UserLimits
from milena_common.api.errors import RateLimited


def test_requests_a_second() -> None:
    limits, user = UserLimits(), parse_user("alice", ("on", "rate:2"))
    limits.admit(user, 0.0)
    limits.admit(user, 0.0)
    with pytest.raises(RateLimited, match="over the limits of user 'alice'") as raised:
        limits.admit(user, 0.0)
    assert raised.value.retry_after == pytest.approx(0.5)
    assert limits.rejected == 1
    limits.admit(user, 0.5)


def test_bytes_are_charged_afterwards() -> None:
    limits, user = UserLimits(), parse_user("alice", ("on", "bytes:1000"))
    limits.charge(user, 900, 0.0)
    limits.admit(user, 0.0)
    limits.charge(user, 600, 0.0)
    with pytest.raises(RateLimited) as raised:
        limits.admit(user, 0.0)
    assert raised.value.retry_after == pytest.approx(0.5)
    limits.admit(user, 0.5)


def test_users_without_a_limit_take_nothing_and_limits_follow_the_table() -> None:
    limits, free = UserLimits(), parse_user("bob", ("on",))
    limits.charge(free, 10**12, 0.0)
    limits.admit(free, 0.0)
    slow, fast = parse_user("alice", ("rate:1",)), parse_user("alice", ("rate:100",))
    limits.admit(slow, 0.0)
    limits.keep_users({"alice": fast})
    limits.admit(fast, 0.0)
    limits.keep_users({"alice": fast})
    limits.admit(fast, 0.0)
