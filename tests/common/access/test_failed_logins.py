"""After some failed logins those from the same address have to wait."""

from __future__ import annotations

import pytest

from milena_common.access.failed_logins import MAX_ADDRESSES, MAX_WAIT_SECONDS, RATE, FailedLogins, source_of


def test_five_a_second_are_looked_at_and_then_each_waits() -> None:
    logins = FailedLogins()
    for _ in range(RATE):
        assert logins.wait("10.0.0.1:5", 100.0) == 0
        logins.count_failure("10.0.0.1:5", 100.0)
    assert logins.wait("10.0.0.2:5", 100.0) == 0
    waits = [logins.wait("10.0.0.1:6", 100.0) for _ in range(3)]
    assert waits == pytest.approx([0.2, 0.4, 0.6])
    assert logins.wait("10.0.0.1:6", 110.0) == 0
    assert len(logins) == 0


def test_waits_are_bounded() -> None:
    logins = FailedLogins()
    for _ in range(1000):
        logins.count_failure("a", 0.0)
    before = logins.wait("a", 0.0)
    assert before > MAX_WAIT_SECONDS
    assert logins.wait("a", 0.0) == before, "a rejected login adds nothing"


def test_the_table_is_bounded() -> None:
    logins = FailedLogins()
    for number in range(MAX_ADDRESSES + 10):
        logins.count_failure(f"host{number}", 0.0)
    assert len(logins) == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("10.0.0.1:80", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("[2001:db8::1]:80", "2001:db8::/64"),
        ("[2001:db8::2]:81", "2001:db8::/64"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1"),
        ("[fe80::1%eth0]:80", "fe80::/64"),
        ("ipv4:10.0.0.1:5", "10.0.0.1"),
        ("ipv6:%5B2001:db8::1%5D:5", "2001:db8::/64"),
        ("unix:", "unix"),
        ("?:0", "?"),
    ],
)
def test_the_source_of_an_address(address: str, source: str) -> None:
    assert source_of(address) == source
