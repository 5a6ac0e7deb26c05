"""Addresses that are never called, in all spellings."""

from __future__ import annotations

import ipaddress

import pytest

from milena_common.network.allowed_networks import why_not

FORBIDDEN = [
    *("169.254.169.254", "169.254.170.2", "169.254.0.1", "100.100.100.200", "192.0.0.192", "0.0.0.0", "0.1.2.3"),
    *("224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "fe80::1", "fe80::1%eth0", "ff02::1", "::"),
    *("::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::169.254.169.254", "64:ff9b::169.254.169.254"),
    *("2002:a9fe:a9fe::1", "fd00:ec2::254", "fd00:0ec2:0:0::254", "::ffff:0.0.0.0", "::ffff:224.0.0.1", "no ip"),
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_never(address: str) -> None:
    assert why_not(address)
    assert why_not(address, [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")])


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "192.168.1.1", "8.8.8.8", "::1", "fd00::1", "2001:db8::1"]
)
def test_others_are_allowed_where_no_networks_are_given(address: str) -> None:
    assert not why_not(address)


def test_networks() -> None:
    networks = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00:1::/32")]
    assert not why_not("10.1.2.3", networks)
    assert not why_not("::ffff:10.1.2.3", networks)
    assert not why_not("fd00:1::5", networks)
    for other in ("127.0.0.1", "11.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert "NODE_NETWORKS" in why_not(other, networks)
