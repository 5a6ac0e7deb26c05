"""Pure. The commands that a client sends to a node in the Redis protocol, and Milena's extensions in the replies.

`MILENA.CALL` carries the gRPC messages. `CLIENT DEFER` lets a node reply out of order, so that a read that waits
for S3 does not delay the hits behind it (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from milena_common.api.credentials import Credentials
from milena_common.api.errors import (
    InternalError,
    MilenaError,
    Moved,
    NodeLost,
    NoNodes,
    Overloaded,
    RateLimited,
    Unavailable,
)
from milena_common.api.keys import MAX_KEY_BYTES
from milena_common.api.methods import METHODS
from milena_common.resp.encoding import command
from milena_common.resp.errors import from_resp
from milena_common.resp.identity import Identity

# The header of a bulk string by length, for all lengths of keys, with the end of the bulk string before it.
_HEADS: Final = tuple(b"\r\n$%d\r\n" % length for length in range(MAX_KEY_BYTES + 80))
# Errors that concern the node, and not one of the keys.
_OF_ALL_KEYS: Final = (Moved, NodeLost, NoNodes, Overloaded, RateLimited)
_DEFERRED: Final = "DEFERRED "

# The result of an attempt that was not made.
NOT_SENT: Final = Unavailable("not sent")

# The responses of the methods that a client may send to the owner of a key.
RESPONSES: Final[Mapping[str, type[Message]]] = {
    method.name: method.router.response for method in METHODS if method.to_owner and method.router
}

# Those that carry a deadline on the node's clock: what they write must not appear after their caller has given up.
WRITES: Final = frozenset(method.name for method in METHODS if method.writes)


class Deferred(int):
    """The placeholder of a deferred reply, which will arrive as a push with this number."""


def handshake(
    name: str, version: str, identity: Identity, credentials: Credentials | None = None
) -> tuple[bytes, ...]:
    """Return the commands that begin a connection to the node that `identity` names.

    `credentials`: those to log in with; None: without a login.

    All must succeed before a key is sent. The reply to the first one has the connection's `id`; a server that is
    not a node of Milena rejects the second one as unknown.
    """
    login: tuple[bytes, ...] = ()
    if credentials is not None:
        login = (b"AUTH", credentials.user.encode(), credentials.password.encode(errors="surrogateescape"))
    return (
        command(b"HELLO", b"3", *login),
        identity.command(),
        command(b"CLIENT", b"SETNAME", name.encode()),
        command(b"CLIENT", b"SETINFO", b"LIB-NAME", b"milena"),
        command(b"CLIENT", b"SETINFO", b"LIB-VER", version.encode()),
        command(b"CLIENT", b"DEFER", b"ON"),
    )


def get(key: bytes) -> bytes:
    """Return a GET of a cache key."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)


def mget(keys: Sequence[bytes]) -> bytes:
    """Return an MGET of cache keys."""
    try:
        bulk_strings = b"".join([_HEADS[len(key)] + key for key in keys])
    except IndexError:
        return command(b"MGET", *keys)
    return b"*%d\r\n$4\r\nMGET%b\r\n" % (len(keys) + 1, bulk_strings)


def values(reply: Any, number: int) -> list[Any]:
    """Return for each of `number` keys its part of the reply to an MGET: its value, None, or an exception.

    NOT_SENT: the reply is an error that concerns some of the keys, and does not name them.
    """
    if isinstance(reply, list) and len(reply) == number:
        return reply
    return [reply if isinstance(reply, _OF_ALL_KEYS) else NOT_SENT] * number


def call(method: str, seconds: float, request: bytes, deadline_ms: int | None = None, end_user: str = "") -> bytes:
    """Return a call of the node's API with a timeout of `seconds`; the reply is the serialized response.

    `deadline_ms`: the node's monotonic time after which it must not carry the call out, see `peer_clock`.
    `end_user`: the user for whom a process of the cluster makes it; "" for itself.
    """
    argv = [b"MILENA.CALL", method.encode(), b"%d" % max(1, int(seconds * 1000)), request]
    if deadline_ms is not None or end_user:
        argv.append(b"" if deadline_ms is None else b"%d" % deadline_ms)
    if end_user:
        argv.append(end_user.encode())
    return command(*argv)


def decode_response(method: str, reply: Any) -> Message:
    """Return the response to a `call` of one of the methods of `RESPONSES`. Raises InternalError for any other
    reply.
    """
    if isinstance(reply, bytes):
        with suppress(DecodeError):
            return RESPONSES[method].FromString(reply)
    raise InternalError(f"a node's reply to {method} is not a {method}Response: {reply!r:.80}")


def error_of(line: str) -> MilenaError | Deferred:
    """Return the error that an error reply means; `line` is without its minus sign."""
    if line.startswith(_DEFERRED) and line[len(_DEFERRED) :].isdecimal():
        return Deferred(line[len(_DEFERRED) :])
    return from_resp(line)
