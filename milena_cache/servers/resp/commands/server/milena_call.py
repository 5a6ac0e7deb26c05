"""Coordination. MILENA.CALL: the methods of the node's own API over RESP.

For the router and Milena's clients, which get by it what Redis's commands cannot express: conditions, ETags,
outcomes. Request and response are the messages of the gRPC service, and the methods are the same (`ApiMethods`), so
that their meaning is too.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from milena_cache.servers.api_methods import OPERATIONS
from milena_cache.servers.resp.dispatch.command import Access, Command, integer
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.errors import DeadlineExceeded, InvalidRequest, MilenaError

# Methods on one object, for the ordering of commands.
OWNED = frozenset(("Get", "Put", "Delete"))
MAX_TIMEOUT_MS = 24 * 3600 * 1000


def call(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Call a method: `MILENA.CALL method timeout_ms request`. Raises InvalidRequest, and as the methods do."""
    api = context.api
    name = argv[1].decode(errors="replace")
    named = api.methods().get(name)
    if named is None:
        raise InvalidRequest(f"method: got {name[:80]!r}; allowed: {', '.join(api.methods())}")
    _, message, method = named
    seconds = timeout_ms(argv[2]) / 1000 - session.waited
    if seconds <= 0:
        raise DeadlineExceeded(
            f"the call waited for {session.waited:.1f} s, longer than its timeout; nothing was done"
        )
    try:
        request = message.FromString(argv[3])
    except DecodeError:
        raise InvalidRequest(f"request: is not an encoded {name}Request") from None
    if name != "Get":
        return method(request, seconds)
    place = api.begin(request)
    if session.tracking:
        context.tracking.track(session.id, place[0].cache_key)
    return api.get_at(request, place, seconds)


def timeout_ms(word: bytes) -> int:
    error = f"ERR timeout_ms: got {word[:80].decode(errors='replace')!r}; allowed: 1 to {MAX_TIMEOUT_MS}"
    milliseconds = integer(word, error)
    if not 1 <= milliseconds <= MAX_TIMEOUT_MS:
        raise InvalidRequest(error.removeprefix("ERR "))
    return milliseconds


def about(context: Context, argv: list[bytes]) -> tuple[Access, list[bytes]]:
    """Return what a call does to its object, and the object's cache key; "none" if it is not on one object."""
    name = argv[1].decode(errors="replace") if len(argv) == 4 else ""
    if name not in OWNED:
        return "none", []
    _, message, _ = context.api.methods()[name]
    try:
        request: Any = message.FromString(argv[3])
        key = context.buckets.resolve(request.bucket, request.key).cache_key
    except (DecodeError, MilenaError):
        return "none", []
    return "read" if name == "Get" else "modify", [key]


def operation_of(argv: list[bytes]) -> str:
    """Return the operation under which a call is counted."""
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
