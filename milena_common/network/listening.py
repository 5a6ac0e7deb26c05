"""Shell. Binds and listens on an address, in the same way for every port of a process.

A wildcard address, `0.0.0.0` or `[::]`, means every interface, with IPv4 and IPv6, on every port: one dual-stack
socket. gRPC does so by itself for either spelling; asyncio would bind only the family that was written. On a
machine without IPv6 it is IPv4 alone.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable

from milena_common.network.addresses import Address, Port

# The system has no IPv6, or it is disabled on all interfaces.
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class CannotListen(Exception):
    """Some ports cannot be bound. The text has a line for each: the variable, the address and the reason."""


async def listen(
    connection: Callable[[], asyncio.Protocol], address: Address, variable: str, *, backlog: int = 128
) -> tuple[asyncio.Server, Address]:
    """Serve each connection to `address` with its own protocol instance; return the server, and its real port.

    `backlog` bounds the connections waiting to be accepted. Raises CannotListen, naming `variable`.
    """
    loop = asyncio.get_running_loop()
    try:
        if address.is_wildcard:
            server = await loop.create_server(connection, sock=_bind_wildcard(address.port), backlog=backlog)
        else:
            server = await loop.create_server(connection, address.host, address.port, backlog=backlog)
    except OSError as error:
        raise _cannot_listen(error, address, variable) from error
    return server, Address(address.host, server.sockets[0].getsockname()[1])


def bind(address: Address, variable: str) -> list[socket.socket]:
    """Return sockets bound to all interfaces and families of `address`, not listening yet.

    Raises CannotListen, naming `variable`.
    """
    bound: list[socket.socket] = []
    try:
        if address.is_wildcard:
            return [_bind_wildcard(address.port)]
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, where in dict.fromkeys((family, str(where[0])) for family, _, _, _, where in found):
            bound.append(_bind(family, where, address.port))
    except OSError as error:
        for each in bound:
            each.close()
        raise _cannot_listen(error, address, variable) from None
    return bound


def check_free(address: Address, variable: str) -> None:
    """Raise CannotListen if `address` cannot be bound, with the system's reason, which gRPC does not report."""
    try:
        if address.is_wildcard:
            _bind_wildcard(address.port).close()
        else:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            _bind(family, address.host, address.port).close()
    except OSError as error:
        raise _cannot_listen(error, address, variable) from error


def check_none_in_use(ports: Iterable[Port]) -> None:
    """Raise CannotListen, with a line for each of `ports` that is in use by another process.

    Binding one after the other would report only one of them at each start. Other failures are reported by `bind`.
    """
    problems = []
    for port in ports:
        try:
            check_free(port.address, port.variable)
        except CannotListen as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
                problems.append(f"{error}{port.alternative}")
    if problems:
        raise CannotListen("\n".join(problems))


def _cannot_listen(error: OSError, address: Address, variable: str) -> CannotListen:
    # The loop's own text repeats the address. The errno of a name that is not found is negative.
    number = error.errno or 0
    reason = os.strerror(number) if number > 0 else error.strerror or error
    advice = f"; set {variable} to another port" if number == errno.EADDRINUSE else ""
    return CannotListen(f"{variable}: cannot listen on {address}: {reason}{advice}")


def _bind_wildcard(port: int) -> socket.socket:
    try:
        return _bind(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return _bind(socket.AF_INET, "0.0.0.0", port)


def _bind(family: int, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound
