"""What nodes report as their addresses: nothing that is not allowed is called."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest

from milena_common.api.errors import AccessDenied, InvalidRequest
from milena_router.forwarding.join_addresses import KEEP_SECONDS, JoinAddresses
from tests.support.fake_clock import FakeClock

NAMES = {
    "node": ["10.0.0.5"],
    "two": ["10.0.0.5", "10.0.0.6"],
    "metadata.internal": ["169.254.169.254"],
    "both": ["10.0.0.5", "169.254.169.254"],
    "mapped": ["::ffff:169.254.169.254"],
    "me": ["127.0.0.1"],
    "six": ["fe80::1"],
    "zero": ["0.0.0.0"],
    "none": [],
}
# Metadata, loopback where it is not allowed, IPv6 with IPv4 inside, numbers, names that resolve to several.
SSRF = [
    *(f"{host}:80" for host in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "127.0.0.1")),
    *(f"{host}:80" for host in ("127.1.2.3", "0.0.0.0", "0.0.0.1", "224.0.0.1", "255.255.255.255", "8.8.8.8")),
    *(f"[{host}]:80" for host in ("::1", "::", "fe80::1", "ff02::1", "fd00:ec2::254", "::ffff:169.254.169.254")),
    *(
        f"[{host}]:80"
        for host in ("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::169.254.169.254", "2002:a9fe:a9fe::1")
    ),
    *(f"[{host}]:80" for host in ("64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe", "::ffff:0:0", "fe80::1%lo")),
    *(f"{host}:80" for host in ("2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "0x7f.1", "0")),
    *(f"{host}:80" for host in ("metadata.internal", "both", "mapped", "me", "six", "zero", "none", "unknown")),
    *(
        "169.254.169.254",
        "http://169.254.169.254/latest:80",
        "user@169.254.169.254:80",
        "10.0.0.5:80@169.254.1.1:80",
    ),
]


class Resolver:
    """Resolves NAMES, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    async def resolve(self, host: str) -> Sequence[str]:
        self.calls += 1
        if host not in NAMES:
            raise OSError("not known")
        return NAMES[host]


def checking(clock: FakeClock, *networks: str) -> tuple[JoinAddresses, Resolver]:
    resolver = Resolver()
    return JoinAddresses(resolver.resolve, [ipaddress.ip_network(net) for net in networks], clock), resolver


def test_there_are_forty_of_them() -> None:
    assert len(SSRF) >= 40


@pytest.mark.parametrize("address", SSRF)
async def test_what_is_not_allowed_is_neither_taken_nor_called(address: str) -> None:
    check, _ = checking(FakeClock(), "10.0.0.0/8")
    with pytest.raises((AccessDenied, InvalidRequest)):
        await check.check_all(["10.0.0.5:1", address])
    with pytest.raises((AccessDenied, ValueError)):
        check.to_call(address)


async def test_what_is_called_was_checked() -> None:
    clock = FakeClock()
    check, resolver = checking(clock, "10.0.0.0/8")
    await check.check_all(["node:80", "two:81", "10.9.9.9:82"])
    assert check.to_call("node:80") == "10.0.0.5:80"
    assert check.to_call("two:81") == "10.0.0.5:81"
    assert check.to_call("10.9.9.9:82") == "10.9.9.9:82"
    await check.check_all(["node:80"])
    assert resolver.calls == 2, "a renewal resolves nothing"
    await clock.advance(KEEP_SECONDS)
    NAMES["node"] = ["169.254.169.254"]
    with pytest.raises(AccessDenied, match="metadata"):
        await check.check_all(["node:80"])
    assert check.to_call("node:80") == "10.0.0.5:80"
    NAMES["node"] = ["10.0.0.5"]


async def test_a_name_that_is_not_known_yet_passes_without_networks_and_is_not_called() -> None:
    check, _ = checking(FakeClock())
    await check.check_all(["unknown:1"])
    with pytest.raises(AccessDenied, match="not been checked"):
        check.to_call("unknown:1")


async def test_a_new_process_has_its_name_resolved_again() -> None:
    check, _ = checking(FakeClock())
    NAMES["moving"] = ["10.0.0.7"]
    await check.check_all(["moving:1"])
    NAMES["moving"] = ["10.0.0.8"]
    await check.check_all(["moving:1"])
    assert check.to_call("moving:1") == "10.0.0.7:1"
    await check.check_all(["moving:1"], fresh=True)
    assert check.to_call("moving:1") == "10.0.0.8:1"


async def test_without_networks_loopback_is_allowed_and_metadata_is_not() -> None:
    check, _ = checking(FakeClock())
    await check.check_all(["127.0.0.1:1", "me:2", "[::1]:3"])
    with pytest.raises(AccessDenied):
        await check.check_all(["169.254.169.254:80"])
