"""A file of users is taken whole, or not at all."""

from __future__ import annotations

import pytest

from milena_common.access.acl_file import MAX_BYTES, OPEN, parse_users
from milena_common.api.errors import ConfigError


def test_users_comments_and_empty_lines() -> None:
    users = parse_users(b"# people\n\nuser alice on >x ~a* +get\r\n  user bob off\n", "main")
    assert list(users) == ["alice", "bob", "default"]
    assert users["alice"].enabled
    assert not users["default"].enabled, "everybody must authenticate"
    assert parse_users(b"user default on nopass ~* &* +@all")["default"].may_all
    assert OPEN["default"].may_all


def test_every_wrong_line_is_named_and_nothing_is_taken() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_users(b"user alice on\nusr bob\nuser carol +nosuch\nuser alice\n\xff\nuser\n")
    assert [problem.split(": ")[1] for problem in raised.value.problems] == [
        f"line {number}" for number in (2, 3, 4, 5, 6)
    ]
    assert "user 'carol': rule 1 '+nosuch'" in raised.value.problems[1]


def test_problems_and_sizes_are_bounded() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_users(b"x\n" * 1000)
    assert raised.value.problems[-1] == "ACL_FILE: and 950 more wrong lines"
    with pytest.raises(ConfigError, match="at most"):
        parse_users(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="10000"):
        parse_users(b"\n".join(b"user u%d" % number for number in range(10_001)))
