"""Coordination. MILENA.CALL: the methods of the node's own API, in the Redis protocol.

For the router and for Milena's clients, which get here what Redis has no words for: conditions, ETags, outcomes.
The request and the answer are the messages of the gRPC service.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from milena_cache.servers.grpc.methods import LIMITED, OPERATIONS
from milena_cache.servers.resp.dispatch.command import Access, Command, integer
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.errors import DeadlineExceeded, InvalidRequest, MilenaError
from milena_common.limits.token_bucket import over_limit

# Methods about one object. The router says since when this node owns it; who does not is told if it does not.
OWNED = frozenset(("Get", "Put", "Delete"))
MAX_TIMEOUT_MS = 24 * 3600 * 1000


def call(context: Context, session: Session, argv: list[bytes]) -> Any:
    """`MILENA.CALL method timeout_ms request`. Raises as the methods do, and InvalidRequest for what is none."""
    service = context.service
    name = argv[1].decode(errors="replace")
    named = service.methods().get(name)
    if named is None:
        raise InvalidRequest(f"method: got {name[:80]!r}; allowed: {', '.join(service.methods())}")
    _, message, method = named
    seconds = _timeout_ms(argv[2]) / 1000 - session.waited
    if seconds <= 0:
        raise DeadlineExceeded(
            f"the call waited for {session.waited:.1f} s, longer than its timeout; nothing was done"
        )
    try:
        request = message.FromString(argv[3])
    except DecodeError:
        raise InvalidRequest(f"request: is not what {name} takes, in protobuf's encoding") from None
    if name in LIMITED and (wait := context.limiter.take(context.clock.now())):
        raise over_limit("this node's", context.limiter.rate, wait)
    if name not in OWNED:
        return method(request, seconds)
    if not request.owned_since:
        target = context.buckets.resolve(request.bucket, request.key)
        request.owned_since = context.ownership.owned_since(target.cache_key)
    if name != "Get":
        return method(request, seconds)
    if session.tracking:
        context.tracking.track(session.id, context.buckets.resolve(request.bucket, request.key).cache_key)
    reply = service.get_now(request)
    return service.fetch(request, seconds) if reply is None else reply


def _timeout_ms(word: bytes) -> int:
    error = f"ERR timeout_ms: got {word[:80].decode(errors='replace')!r}; allowed: 1 to {MAX_TIMEOUT_MS}"
    milliseconds = integer(word, error)
    if not 1 <= milliseconds <= MAX_TIMEOUT_MS:
        raise InvalidRequest(error.removeprefix("ERR "))
    return milliseconds


def about(context: Context, argv: list[bytes]) -> tuple[Access, list[bytes]]:
    """What a call does to which object; nothing to any if it is not about one."""
    name = argv[1].decode(errors="replace") if len(argv) == 4 else ""
    if name not in OWNED:
        return "none", []
    _, message, _ = context.service.methods()[name]
    try:
        request: Any = message.FromString(argv[3])
        key = context.buckets.resolve(request.bucket, request.key).cache_key
    except (DecodeError, MilenaError):
        return "none", []
    return "read" if name == "Get" else "modify", [key]


def operation_of(argv: list[bytes]) -> str:
    """Under which of the operations a call is counted."""
    name = argv[1].decode(errors="replace").lower() if len(argv) > 1 else ""
    return name if name in OPERATIONS else "other"


COMMANDS = (
    Command(
        "milena.call",
        call,
        4,
        flags=("write", "denyoom"),
        summary="Calls a method of the node's own API.",
        complexity="Depends on the method.",
        since="7.0.0",
        labelled=operation_of,
        about=about,
    ),
)
