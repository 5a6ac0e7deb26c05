"""Addresses as people write them."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.network.addresses import Address, canonical_host, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port", "spelled"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051, "127.0.0.1:50051"),
        ("http://127.0.0.1:50051", "127.0.0.1", 50051, "127.0.0.1:50051"),
        ("http://cache1:50051/", "cache1", 50051, "cache1:50051"),
        ("cache-0.cache.prod.svc.cluster.local.:1", "cache-0.cache.prod.svc.cluster.local.", 1, None),
        ("my_host:65535", "my_host", 65535, "my_host:65535"),
        ("[::1]:50051", "::1", 50051, "[::1]:50051"),
        ("http://[2001:db8::1]:80", "2001:db8::1", 80, "[2001:db8::1]:80"),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80, "[fe80::1%eth0]:80"),
        ("h:00080", "h", 80, "h:80"),
        ("[::0]:1", "::", 1, "[::]:1"),
        ("[0:0:0:0:0:0:0:1]:1", "::1", 1, "[::1]:1"),
        ("[2001:DB8:0::00A]:1", "2001:db8::a", 1, "[2001:db8::a]:1"),
        ("[::ffff:10.0.0.1]:1", "10.0.0.1", 1, "10.0.0.1:1"),
        ("fd00::1:6379", "fd00::1", 6379, "[fd00::1]:6379"),
        ("http://fd00::1:6379/", "fd00::1", 6379, "[fd00::1]:6379"),
        ("2001:db8:1:2:3:4:5:6:6379", "2001:db8:1:2:3:4:5:6", 6379, "[2001:db8:1:2:3:4:5:6]:6379"),
        (":::6379", "::", 6379, "[::]:6379"),
    ],
)
def test_what_is_understood(text: str, host: str, port: int, spelled: str | None) -> None:
    address = parse_address(text)
    assert address == Address(host, port)
    assert str(address) == (spelled or text)
    assert canonical_host(host) == host


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "port is missing"),
        ("localhost", "port is missing"),
        ("localhost:", "port is missing"),
        ("localhost:http", "port is missing"),
        ("localhost:-1", "port is missing"),
        ("localhost:٣", "port is missing"),
        ("localhost:0", "port 0 is out of range"),
        ("localhost:65536", "port 65536 is out of range"),
        (":50051", "'' is not a host name"),
        ("a b:1", "'a b' is not a host name"),
        ("a..b:1", "not a host name"),
        ("-a:1", "not a host name"),
        ("a\n:1", "not a host name"),
        (f"{'a' * 64}:1", "not a host name"),
        (f"{'a.' * 130}:1", "not a host name"),
        ("2001:db8:1:2:3:4:5:6379", "not a host name"),
        ("fd00::6379", "not a host name"),
        ("0:50051", "'0' is not a host name or IP address"),
        ("127.1:50051", "not a host name or IP address"),
        ("010.0.0.1:50051", "not a host name or IP address"),
        ("0x7f.1:50051", "not a host name or IP address"),
        ("256.1.1.1:50051", "not a host name or IP address"),
        ("[::g]:1", "'::g' is not an IPv6 address"),
        ("[]:1", "not an IPv6 address"),
        ("[::1%a\nLeave]:1", "not an IPv6 address"),
        ("https://a:1", "scheme 'https' is not supported"),
        ("http://http://a:1", "scheme 'http' is not supported"),
        ("http://a:1/path", "port is missing"),
        ("user@host:1", "not a host name"),
    ],
)
def test_what_is_rejected(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_address(text)


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "[::0]:1", "[0:0:0:0:0:0:0:0]:1", "[::ffff:0.0.0.0]:1"])
def test_a_wildcard_is_one_however_it_is_spelled(text: str) -> None:
    assert parse_address(text).is_wildcard


@given(st.ip_addresses(v=6), st.integers(1, 65535))
def test_an_ipv6_address_has_one_spelling(ip: IPv6Address, port: int) -> None:
    short = parse_address(f"[{ip}]:{port}")
    assert parse_address(f"[{ip.exploded.upper()}]:{port}") == short
    assert parse_address(str(short)) == short


def test_port_0_is_any_free_one_and_only_for_listening() -> None:
    assert parse_address("localhost:0", lowest_port=0) == Address("localhost", 0)


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address
    assert str(address).isprintable()


@pytest.mark.parametrize("text", ["", " ", "a b", "a:1", "::g", "%", "a" * 300, "::1%\n", "ü"])
def test_what_is_no_host(text: str) -> None:
    assert canonical_host(text) is None


@pytest.mark.parametrize(
    ("host", "wildcard"), [("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("h", False)]
)
def test_wildcards(host: str, wildcard: bool) -> None:
    assert Address(host, 1).is_wildcard == wildcard
