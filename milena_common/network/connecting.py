"""Shell. Opens connections to servers of the Redis protocol and of S3: for threads (`open_stream`) and for event
loops (`open_connection`).

All such connections of clients, routers and nodes are opened here, so that what holds for every connection is
decided once: no delay of small packets, and keepalive, by which the system finds out that a silent peer has
vanished. (gRPC opens its own: `milena_common.rpc.opening`.)
"""

from __future__ import annotations

import asyncio

# `getaddrinfo` imports it at its first use. A process that is forked while another thread does that never has it.
import encodings.idna  # noqa: F401
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from milena_common.network.addresses import parse_address
from milena_common.network.encrypted import HandshakeFailed, connect_encrypted
from milena_common.network.security import Security
from milena_common.network.stream import Stream
from milena_common.network.tls_stream import TlsStream

P = TypeVar("P", bound=asyncio.BaseProtocol)

_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class Endpoint(NamedTuple):
    """One of the addresses that a server's name has.

    family: as `socket.socket` takes it
    sockaddr: as `socket.connect` takes it
    """

    family: int
    sockaddr: Any


def resolve(address: str) -> list[Endpoint]:
    """Return the endpoints of `address`, host:port; may take long. Raises OSError, or ValueError if it is none."""
    host, port = parse_address(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Endpoint(family, sockaddr) for family, _, _, _, sockaddr in found]


def open_stream(
    endpoint: Endpoint, timeout: float, security: Security | None = None, server_name: str = ""
) -> Stream:
    """Return a connection to `endpoint`, made within `timeout` seconds.

    `security`: encrypts it; None for a plain one. `server_name`: the host that the server's certificate is for.
    Raises OSError, HandshakeFailed for its TLS.
    """
    connecting = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        connecting.settimeout(timeout)
        connecting.connect(endpoint.sockaddr)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _keep_alive(connecting)
        if security is not None:
            return _encrypted(connecting, timeout, security, server_name)
        connecting.settimeout(None)
    except BaseException:
        connecting.close()
        raise
    return PlainStream(connecting)


def _encrypted(connected: socket.socket, timeout: float, security: Security, host: str) -> Stream:
    try:
        stream = TlsStream(PlainStream(connected), security, host)
        connected.settimeout(None)
        stream.handshake(timeout)
    except ssl.SSLError as error:
        raise HandshakeFailed(security.failure(error, host)) from None
    except BlockingIOError:
        raise HandshakeFailed(f"the TLS handshake did not end within {timeout:g} s") from None
    return stream


async def open_connection(
    protocol: Callable[[], P], address: str, security: Security | None = None, server_name: str = ""
) -> P:
    """Return the protocol of a new connection to `address`, host:port.

    `security`: encrypts it; None for a plain one. `server_name`: the host that the server's certificate is for, if
    it is not that of `address`. The caller bounds the time. Raises OSError, HandshakeFailed for its TLS, or
    ValueError if it is no address.
    """
    host, port = parse_address(address)
    if security is None:
        # The loop sets TCP_NODELAY by itself.
        transport, opened = await asyncio.get_running_loop().create_connection(protocol, host, port)
    else:
        transport, opened = await connect_encrypted(protocol, host, port, security, server_name)
    with suppress(OSError):  # the peer has ended it already, which the protocol is notified of
        _keep_alive(transport.get_extra_info("socket"))
    return opened


async def resolve_host(host: str) -> list[str]:
    """Return the IP addresses of a host name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


async def rejects_connections(address: str, timeout: float) -> bool:
    """Return True if each endpoint of `address`, host:port, refuses a connection, within `timeout` seconds.

    A host refuses them where no process listens. False for anything else, such as silence, an unreachable host, or
    a name that is not known.
    """
    try:
        return await asyncio.wait_for(_all_reject(address), timeout)
    except OSError:  # TimeoutError is one
        return False


async def _all_reject(address: str) -> bool:
    host, port = parse_address(address)
    loop = asyncio.get_running_loop()
    endpoints = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, sockaddr in endpoints:
        with socket.socket(family, kind, protocol) as connecting:
            connecting.setblocking(False)
            try:
                await loop.sock_connect(connecting, sockaddr)
            except ConnectionRefusedError:
                continue
            return False
    return bool(endpoints)


def _keep_alive(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class PlainStream:
    """A `Stream` over a connected TCP socket, without encryption.

    The limit is the socket's own (SO_RCVTIMEO, SO_SNDTIMEO): with Python's every call would poll first.
    """

    __slots__ = ("_socket", "recv", "send_some")

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        # The socket's own methods, with no Python frame between: each call of them is one system call.
        self.send_some: Callable[[bytes | memoryview], int] = connected.send
        self.recv: Callable[[int], bytes] = connected.recv

    def set_limit(self, seconds: float) -> None:
        whole = int(seconds)
        # Zero would mean no limit.
        span = struct.pack("@ll", whole, max(1, int((seconds - whole) * 1_000_000)))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)

    def recv_full(self, size: int) -> bytes:
        return self._socket.recv(size, socket.MSG_WAITALL)

    def recv_ready(self, max_bytes: int) -> bytes:
        return self._socket.recv(max_bytes, socket.MSG_DONTWAIT)

    def peer_closed(self) -> bool:
        try:
            return not self._socket.recv(1, _PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def shutdown(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
