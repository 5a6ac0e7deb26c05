"""Pure. The commands that a client sends to a node in the Redis protocol, and Milena's extensions in the replies.

`MILENA.CALL` carries the gRPC messages. `CLIENT DEFER` lets a node reply out of order, so that a read that waits
for S3 does not delay the hits behind it (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError, Message

from milena_common.api.credentials import Credentials
from milena_common.api.durability import THROUGH
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
from milena_common.api.etags import etag_of
from milena_common.api.keys import MAX_KEY_BYTES
from milena_common.api.methods import METHODS, PUT
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.resp.encoding import command
from milena_common.resp.errors import from_resp
from milena_common.resp.identity import Identity

# The header of a bulk string by length, for all lengths of keys, with the end of the bulk string before it.
_HEADS: Final = tuple(b"\r\n$%d\r\n" % length for length in range(MAX_KEY_BYTES + 80))
# Errors that concern the node, and not one of the keys.
_OF_ALL_KEYS: Final = (Moved, NodeLost, NoNodes, Overloaded, RateLimited)
_DEFERRED: Final = "DEFERRED "
# Larger values are not sent as a SET.
_MAX_SET_BYTES: Final = 64 * 1024

# The result of an attempt that was not made.
NOT_SENT: Final = Unavailable("not sent")

# The responses of the methods that a client may send to the owner of a key.
RESPONSES: Final[Mapping[str, type[Message]]] = {
    method.name: method.router.response for method in METHODS if method.to_owner and method.router
}

# Those of the methods that any node serves, for a client that cannot call the router.
ANY_NODE: Final[Mapping[str, type[Message]]] = {
    method.name: method.router.response for method in METHODS if method.at_any_node and method.router
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


class NodeCall(Protocol):
    """A call of one of the methods of `RESPONSES`, as it is sent to the owner of its key.

    writes: True if what it does must not appear after its caller has given up
    """

    writes: bool

    def command(self, seconds: float, deadline_ms: int | None) -> bytes:
        """Return the command, with a timeout of `seconds`, and the node's time after which it is rejected."""

    def response(self, reply: Any) -> Message:
        """Return the response that the reply has. Raises InternalError for a reply of another form."""


class MethodCall:
    """A call that is sent as MILENA.CALL, with the message as it is. `end_user`: for whom it is made."""

    __slots__ = ("_end_user", "_method", "_request", "writes")

    def __init__(self, method: str, request: bytes, end_user: str = "") -> None:
        self.writes = method in WRITES
        self._method = method
        self._request = request
        self._end_user = end_user

    def command(self, seconds: float, deadline_ms: int | None) -> bytes:
        return call(self._method, seconds, self._request, deadline_ms, self._end_user)

    def response(self, reply: Any) -> Message:
        return decode_response(self._method, reply)


class SetCall:
    """A put without a condition that is sent as a SET with RECEIPT and WITHIN: it costs the node a fifth."""

    __slots__ = ("_key", "_request", "writes")

    def __init__(self, key: bytes, request: pb.PutRequest) -> None:
        """`key`: the cache key."""
        self.writes = True
        self._key = key
        self._request = request

    def command(self, seconds: float, deadline_ms: int | None) -> bytes:
        request = self._request
        key, value, durability = self._key, request.value, request.durability
        deadline = b"" if deadline_ms is None else b"%d" % deadline_ms
        options = b"$7\r\nRECEIPT\r\n$6\r\nWITHIN\r\n%b$%d\r\n%b\r\n" % (
            _bulk(b"%d" % max(1, int(seconds * 1000))),
            len(deadline),
            deadline,
        )
        number = 7
        if durability:
            options += b"$10\r\nDURABILITY\r\n%b" % _bulk(durability.encode())
            number += 2
        if request.ttl_ms:
            options += b"$2\r\nPX\r\n%b" % _bulk(b"%d" % request.ttl_ms)
            number += 2
        head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (number, len(key), key, len(value))
        return b"".join((head, value, b"\r\n", options))

    def response(self, reply: Any) -> Message:
        if isinstance(reply, bytes):
            with suppress(ValueError):
                durability, node, *etag = reply.decode(errors="replace").split(" ", 2)
                return pb.PutResponse(
                    successful=True,
                    etag=etag[0] if etag else etag_of(self._request.value),
                    node=node,
                    durability=durability,
                )
        raise InternalError(f"a node's reply to SET is not a receipt: {reply!r:.80}")


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)


def node_call(method: str, request: Any, key: bytes, *, takes_sets: bool) -> NodeCall:
    """Return the call in the cheapest form; `key` is its cache key, `takes_sets` what the handshake has shown.

    A write through to S3, or with a condition, is MILENA.CALL, as a large value is, whose ETag the node computes.
    """
    if (
        takes_sets
        and method == PUT.name
        and not request.if_match
        and not request.if_none_match
        and request.durability != THROUGH
        and len(request.value) < _MAX_SET_BYTES
    ):
        return SetCall(key, request)
    return MethodCall(method, request.SerializeToString())


def takes_sets(hello: Any) -> bool:
    """Return True if the reply to HELLO, the first command of the handshake, is of a node that takes `SetCall`."""
    modules = hello.get(b"modules", ()) if isinstance(hello, dict) else ()
    return any(
        isinstance(module, dict) and module.get(b"name") == b"milena" and module.get(b"ver", 0) >= 1
        for module in modules
    )


def decode_response(method: str, reply: Any) -> Message:
    """Return the response to a `call` of one of the methods of `RESPONSES` or `ANY_NODE`.

    Raises InternalError for any other reply.
    """
    if isinstance(reply, bytes):
        with suppress(DecodeError):
            return (RESPONSES.get(method) or ANY_NODE[method]).FromString(reply)
    raise InternalError(f"a node's reply to {method} is not a {method}Response: {reply!r:.80}")


def error_of(line: str) -> MilenaError | Deferred:
    """Return the error that an error reply means; `line` is without its minus sign."""
    if line.startswith(_DEFERRED) and line[len(_DEFERRED) :].isdecimal():
        return Deferred(line[len(_DEFERRED) :])
    return from_resp(line)
