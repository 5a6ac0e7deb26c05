"""Shell. Encrypted connections of event loops: opens and accepts them, and names what failed.

aiofastnet does that, where it is installed, as it is for routers and nodes: it takes a third less processor time
for a small request than uvloop's own encryption (`python -m bench tls_get`). It works on any event loop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any, TypeVar, cast

from milena_common.network.security import Security

try:
    import aiofastnet

    _fast: ModuleType | None = aiofastnet
except ImportError:
    _fast = None

P = TypeVar("P", bound=asyncio.BaseProtocol)

# Seconds for the handshake of a client: several round trips to another region, on a busy machine.
HANDSHAKE_SECONDS = 5.0
# What aiofastnet and event loops call a handshake that failed.
_HANDSHAKE_FAILED = "SSL handshake failed"
# The first byte of a TLS connection.
_HANDSHAKE_RECORD = b"\x16"


class HandshakeFailed(OSError):
    """A connection was made, and could not be encrypted; the text says why."""


async def connect_encrypted(
    protocol: Callable[[], P], host: str, port: int, security: Security, server_name: str = ""
) -> tuple[asyncio.Transport, P]:
    """Return transport and protocol of a new encrypted connection. Raises OSError, HandshakeFailed for its TLS.

    `server_name`: the host for whose name the server's certificate is verified, if it is not `host`.
    """
    loop = asyncio.get_running_loop()
    name = server_name or host
    context, expected = security.client_context(), security.server_name(name)
    try:
        if _fast is not None:
            opened = await _fast.create_connection(
                loop, protocol, host, port, ssl=context, server_hostname=expected
            )
        else:
            opened = await loop.create_connection(protocol, host, port, ssl=context, server_hostname=expected)
    except ssl.SSLError as error:
        raise HandshakeFailed(security.failure(error, name)) from None
    except (ConnectionResetError, ConnectionAbortedError, EOFError) as error:
        raise HandshakeFailed(f"the TLS handshake failed: {error or 'the connection was ended'}") from None
    return cast("tuple[asyncio.Transport, P]", opened)


async def accept_encrypted(
    protocol: Callable[[], asyncio.BaseProtocol],
    accepted: socket.socket,
    context: ssl.SSLContext,
    seconds: float = HANDSHAKE_SECONDS,
) -> None:
    """Do the handshake on an accepted connection, within `seconds`; it has its protocol then. Raises OSError."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if _fast is not None:
        await _fast.connect_accepted_socket(loop, protocol, accepted, ssl=context, ssl_handshake_timeout=seconds)
    else:
        await loop.connect_accepted_socket(protocol, accepted, ssl=context, ssl_handshake_timeout=seconds)


def log_no_handshakes(loop: asyncio.AbstractEventLoop) -> None:
    """Keep failed handshakes of clients out of the log of `loop`'s errors: a client can cause any number of them.

    aiofastnet passes them to the loop's handler of exceptions, and warns at each end of a connection that its
    protocol cannot keep it half open.
    """
    logging.getLogger("aiofastnet").setLevel(logging.ERROR)
    handler = loop.get_exception_handler()
    if isinstance(handler, _Handler):
        return
    loop.set_exception_handler(_Handler(handler))


class _Handler:
    """Handles what the event loop reports: handshakes not at all, all else as `before` did, None for the loop."""

    def __init__(self, before: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if str(context.get("message", "")).startswith(_HANDSHAKE_FAILED):
            return
        if self._before is None:
            loop.default_exception_handler(context)
        else:
            self._before(loop, context)


async def begins_with_tls(accepted: socket.socket) -> bool:
    """Return True if the client begins with a TLS handshake, once it has sent something; nothing is taken away.

    Raises OSError, TimeoutError after HANDSHAKE_SECONDS.
    """
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    number = accepted.fileno()

    def on_readable() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(number, on_readable)
    try:
        await asyncio.wait_for(readable, HANDSHAKE_SECONDS)
        return accepted.recv(1, socket.MSG_PEEK) == _HANDSHAKE_RECORD
    finally:
        loop.remove_reader(number)
