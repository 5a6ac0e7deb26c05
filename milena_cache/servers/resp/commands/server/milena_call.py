"""Coordination. MILENA.CALL: the methods of the node's own API over RESP.

For the router and Milena's clients, which get by it what Redis's commands cannot express: conditions, ETags,
outcomes. Request and response are the messages of the gRPC service, and the methods are the same (`ApiMethods`), so
that their meaning is too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError

from milena_cache.servers.resp.dispatch.command import Access, integer
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.errors import DeadlineExceeded, InvalidRequest, MilenaError
from milena_common.api.methods import GET, METHODS

# What the methods on one object do to it, for the ordering of commands.
_ACCESS: Final[Mapping[str, Access]] = {
    method.name: "modify" if method.writes else "read" for method in METHODS if method.to_owner
}
_OPERATIONS: Final = {method.name: method.operation for method in METHODS if method.node}
MAX_TIMEOUT_MS = 24 * 3600 * 1000


COMMANDS = CommandTable[Context]()


def about(context: Context, argv: list[bytes]) -> tuple[Access, list[bytes]]:
    """Return what a call does to its object, and the object's cache key; "none" if it is not on one object."""
    name = argv[1].decode(errors="replace") if len(argv) == 4 else ""
    access = _ACCESS.get(name)
    if access is None:
        return "none", []
    _, message, _ = context.api.methods()[name]
    try:
        request: Any = message.FromString(argv[3])
        key = context.buckets.resolve(request.bucket, request.key).cache_key
    except (DecodeError, MilenaError):
        return "none", []
    return access, [key]


def operation_of(argv: list[bytes]) -> str:
    """Return the operation under which a call is counted."""
    name = argv[1].decode(errors="replace") if len(argv) > 1 else ""
    return _OPERATIONS.get(name, "other")


@COMMANDS.command(
    "milena.call",
    arity=4,
    flags=("write", "denyoom"),
    since="7.0.0",
    complexity="Depends on the method.",
    summary="Calls a method of the node's own API.",
    labelled=operation_of,
    about=about,
)
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
    if name != GET.name:
        return method(request, seconds)
    place = api.admit_object(request)
    if session.tracking:
        context.tracking.track(session.id, place[0].cache_key)
    return api.get_at(request, place, seconds)


def timeout_ms(word: bytes) -> int:
    error = f"ERR timeout_ms: got {word[:80].decode(errors='replace')!r}; allowed: 1 to {MAX_TIMEOUT_MS}"
    milliseconds = integer(word, error)
    if not 1 <= milliseconds <= MAX_TIMEOUT_MS:
        raise InvalidRequest(error.removeprefix("ERR "))
    return milliseconds
