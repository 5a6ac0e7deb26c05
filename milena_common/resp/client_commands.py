"""Pure. What a client writes to a node in the Redis protocol, and what is Milena's own in the answers.

`MILENA.CALL` carries the gRPC messages. `CLIENT DEFER` lets a node answer out of order, so that one read that has
to wait for S3 does not hold up the hits behind it (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

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
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.resp.encoding import command
from milena_common.resp.errors import from_resp
from milena_common.resp.identity import Identity

# What comes before a bulk string of a length that keys have, with the end of the one before.
_HEADS: Final = tuple(b"\r\n$%d\r\n" % length for length in range(MAX_KEY_BYTES + 80))
# Errors that say something about the node, and not about one of the keys.
_OF_ALL_KEYS: Final = (Moved, NodeLost, NoNodes, Overloaded, RateLimited)
_DEFERRED: Final = "DEFERRED "

# In place of what came of an attempt: there was none.
NOT_SENT: Final = Unavailable("not asked")

RESPONSES: Final[Mapping[str, type[Message]]] = {
    "Get": pb.GetResponse,
    "Put": pb.PutResponse,
    "Delete": pb.DeleteResponse,
}


class Deferred(int):
    """In place of an answer: it will come as a push, under this number."""


def handshake(name: str, version: str, identity: Identity) -> tuple[bytes, ...]:
    """The commands that begin a connection to the node that `identity` names.

    All must succeed, before a key is sent; the first one answers the connection's `id`. What is no node of Milena's
    does not know the second one.
    """
    return (
        command(b"HELLO", b"3"),
        identity.command(),
        command(b"CLIENT", b"SETNAME", name.encode()),
        command(b"CLIENT", b"SETINFO", b"LIB-NAME", b"milena"),
        command(b"CLIENT", b"SETINFO", b"LIB-VER", version.encode()),
        command(b"CLIENT", b"DEFER", b"ON"),
    )


def get(key: bytes) -> bytes:
    """GET of a cache key."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)


def mget(keys: Sequence[bytes]) -> bytes:
    """MGET of cache keys."""
    try:
        bulk_strings = b"".join([_HEADS[len(key)] + key for key in keys])
    except IndexError:
        return command(b"MGET", *keys)
    return b"*%d\r\n$4\r\nMGET%b\r\n" % (len(keys) + 1, bulk_strings)


def values(reply: Any, number: int) -> list[Any]:
    """For each of `number` keys what an MGET answered: its value, None, or an exception.

    NOT_SENT: the answer is an error of some of the keys, and does not say of which.
    """
    if isinstance(reply, list) and len(reply) == number:
        return reply
    return [reply if isinstance(reply, _OF_ALL_KEYS) else NOT_SENT] * number


def call(method: str, seconds: float, request: bytes) -> bytes:
    """A call of the node's API, which has `seconds` to answer; the answer is the serialized response."""
    return command(b"MILENA.CALL", method.encode(), b"%d" % max(1, int(seconds * 1000)), request)


def decode_response(method: str, reply: Any) -> Message:
    """Return the response to a `call` of one of the methods of `RESPONSES`. Raises InternalError if it is none."""
    if isinstance(reply, bytes):
        with suppress(DecodeError):
            return RESPONSES[method].FromString(reply)
    raise InternalError(f"a node answered {method} with what is no {method}Response: {reply!r:.80}")


def error_of(line: str) -> MilenaError | Deferred:
    """What an error answer means; `line` is without its minus sign."""
    if line.startswith(_DEFERRED) and line[len(_DEFERRED) :].isdecimal():
        return Deferred(line[len(_DEFERRED) :])
    return from_resp(line)
