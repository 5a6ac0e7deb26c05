"""One meaning of a wildcard address on every port: all interfaces, IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from milena_common.limits.byte_budget import ByteBudget
from milena_common.network import listening
from milena_common.network.addresses import Address, Port, parse_address
from milena_common.network.listening import CannotListen, check_free, check_none_in_use, listen
from milena_common.rpc.server import GrpcServer

HAS_IPV6 = False
try:
    with socket.socket(socket.AF_INET6) as probing:
        probing.bind(("::1", 0))
        HAS_IPV6 = True
except OSError:
    pass

LOOPBACKS = ["127.0.0.1", *(["::1"] if HAS_IPV6 else [])]
WILDCARDS = ["0.0.0.0:0", "[::]:0", "[::0]:0"]


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("text", WILDCARDS)
@pytest.mark.parametrize("loopback", LOOPBACKS)
async def test_asyncio_ports_take_both_families_on_a_wildcard(text: str, loopback: str) -> None:
    server, real = await listen(asyncio.Protocol, parse_address(text, lowest_port=0), "RESP_ADDR")
    try:
        assert await asyncio.to_thread(connects, loopback, real.port)
    finally:
        server.close()


@pytest.mark.parametrize("text", WILDCARDS)
@pytest.mark.parametrize("loopback", LOOPBACKS)
async def test_the_grpc_port_takes_both_families_on_a_wildcard(text: str, loopback: str) -> None:
    server = GrpcServer("test.Service", 1024, ByteBudget(10_000), 5)
    real = server.bind(parse_address(text, lowest_port=0), "LISTEN_ADDR")
    await server.start({}, {})
    try:
        assert await asyncio.to_thread(connects, loopback, real.port)
    finally:
        await server.stop(0)


async def test_one_interface_is_not_all_of_them() -> None:
    server, real = await listen(asyncio.Protocol, Address("127.0.0.1", 0), "RESP_ADDR")
    try:
        assert not await asyncio.to_thread(connects, "127.0.0.2", real.port)
    finally:
        server.close()


async def test_without_ipv6_a_wildcard_is_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real_bind = listening._bind

    def bind(family: int, host: str, port: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real_bind(family, host, port)

    monkeypatch.setattr(listening, "_bind", bind)
    server, real = await listen(asyncio.Protocol, parse_address("[::]:0", lowest_port=0), "RESP_ADDR")
    try:
        assert await asyncio.to_thread(connects, "127.0.0.1", real.port)
    finally:
        server.close()


@pytest.mark.parametrize("taken", ["127.0.0.1", "0.0.0.0"])
async def test_a_wildcard_does_not_share_a_port(taken: str) -> None:
    with socket.socket() as other:
        other.bind((taken, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            CannotListen, match=rf"^LISTEN_ADDR: cannot listen on \[::\]:{port}: Address already in use"
        ):
            check_free(Address("::", port), "LISTEN_ADDR")


def test_each_port_that_is_in_use_is_a_line_that_says_what_to_set() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = Address("127.0.0.1", taken.getsockname()[1])
        ports = [
            Port(used, "LISTEN_ADDR"),
            Port(Address("127.0.0.1", 0), "METRICS_PORT"),
            Port(used, "RESP_ADDR", ", or to off"),
            # Not in use, and not there at all: that is said when it is taken, by the code that knows names.
            Port(Address("192.0.2.1", 1), "ELSEWHERE"),
        ]
        with pytest.raises(CannotListen) as raised:
            check_none_in_use(ports)
    assert str(raised.value).splitlines() == [
        f"LISTEN_ADDR: cannot listen on {used}: Address already in use; set LISTEN_ADDR to another port",
        f"RESP_ADDR: cannot listen on {used}: Address already in use; set RESP_ADDR to another port, or to off",
    ]
    check_none_in_use(ports[1:2])
