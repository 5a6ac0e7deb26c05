"""Pure. What a client writes to a node in the Redis protocol, and what is Milena's own in the answers.

`MILENA.CALL` carries the gRPC messages. `CLIENT DEFER` lets a node answer out of order, so that one read that has to
wait for S3 does not hold up the hits behind it (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from milena_common.errors import MilenaError
from milena_common.resp import command
from milena_common.resp_errors import from_resp

_DEFERRED: Final = "DEFERRED "


class Deferred(int):
    """In place of an answer: it will come as a push, under this number."""


def greeting(name: str, version: str) -> tuple[bytes, ...]:
    """The commands that begin a connection. All must succeed; the first one answers the connection's `id`."""
    return (
        command(b"HELLO", b"3"),
        command(b"CLIENT", b"SETNAME", name.encode()),
        command(b"CLIENT", b"SETINFO", b"LIB-NAME", b"milena"),
        command(b"CLIENT", b"SETINFO", b"LIB-VER", version.encode()),
        command(b"CLIENT", b"DEFER", b"ON"),
    )


def get(filed_as: bytes) -> bytes:
    """GET of a cache key."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(filed_as), filed_as)


def mget(filed_as: Sequence[bytes]) -> bytes:
    """MGET of cache keys."""
    return command(b"MGET", *filed_as)


def call(method: str, seconds: float, request: bytes) -> bytes:
    """A call of the node's API, which has `seconds` to answer; the answer is the serialized response."""
    return command(b"MILENA.CALL", method.encode(), b"%d" % max(1, int(seconds * 1000)), request)


def error_of(line: str) -> MilenaError | Deferred:
    """What an error answer means; `line` is without its minus sign."""
    if line.startswith(_DEFERRED) and line[len(_DEFERRED) :].isdecimal():
        return Deferred(line[len(_DEFERRED) :])
    return from_resp(line)
