"""Coordination. MILENA.CALL: the methods of the node's own API over RESP.

For the router and Milena's clients, which get by it what Redis's commands cannot express: conditions, ETags,
outcomes. Request and response are the messages of the gRPC service, and the methods are the same (`ApiMethods`), so
that their meaning is too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError

from milena_cache.servers.resp.dispatch.call_times import remaining_seconds
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.pending_replies import Large
from milena_cache.servers.resp.state.permissions import PORT
from milena_common.access.api_guard import Filter
from milena_common.api.errors import InvalidRequest, MilenaError
from milena_common.api.methods import GET, METHODS
from milena_common.resp.command_ordering import Access
from milena_common.resp.redis_replies import wrong_arity
from milena_common.runtime.clock import monotonic_ms

# What the methods on one object do to it, for the ordering of commands.
_ACCESS: Final[Mapping[bytes, Access]] = {
    method.name.encode(): "modify" if method.writes else "read" for method in METHODS if method.to_owner
}
_OPERATIONS: Final = {method.name.encode(): method.operation for method in METHODS if method.node}
_GET: Final = GET.name.encode()
# Arguments of a call, with its name: at most, and those that are not optional.
_MIN_LENGTH: Final = 4
_MAX_LENGTH: Final = 6


COMMANDS = CommandTable[Context]()


def about(context: Context, argv: list[bytes]) -> tuple[Access, list[bytes]]:
    """Return what a call does to its object, and the object's cache key; "none" if it is not on one object."""
    access = _ACCESS.get(argv[1]) if _MIN_LENGTH <= len(argv) <= _MAX_LENGTH else None
    if access is None:
        return "none", []
    _, message, _ = context.api.by_word[argv[1]]
    try:
        request: Any = message.FromString(argv[3])
        key = context.buckets.resolve(request.bucket, request.key).cache_key
    except (DecodeError, MilenaError):
        return "none", []
    return access, [key]


def operation_of(argv: list[bytes]) -> str:
    """Return the operation under which a call is counted."""
    return _OPERATIONS.get(argv[1], "other") if len(argv) > 1 else "other"


@COMMANDS.command(
    "milena.call",
    arity=-4,
    flags=("write", "denyoom"),
    since="7.0.0",
    complexity="Depends on the method.",
    summary="Calls a method of the node's own API.",
    labelled=operation_of,
    about=about,
)
def call(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Call a method: `MILENA.CALL method timeout_ms request [deadline_ms [user]]`.

    `deadline_ms` is on this node's monotonic clock, see `milena_common.resp.peer_clock`; "" is none. `user`: for
    whom a process of the cluster calls it; only such may name one. Raises InvalidRequest, Overloaded if it came
    after its deadline, and as the methods do.
    """
    if len(argv) > _MAX_LENGTH:
        raise wrong_arity("milena.call")
    api = context.api
    named = api.by_word.get(argv[1])
    if named is None:
        name = argv[1][:80].decode(errors="replace")
        raise InvalidRequest(f"method: got {name!r}; allowed: {', '.join(api.methods())}")
    _, message, method = named
    deadline = argv[4] if len(argv) > _MIN_LENGTH else b""
    seconds = remaining_seconds(argv[2], deadline, session.waited, monotonic_ms(context.clock))
    try:
        request: Any = message.FromString(argv[3])
    except DecodeError:
        raise InvalidRequest(f"request: is not an encoded {message.__name__}") from None
    if len(argv) == _MAX_LENGTH:
        return _for_user(context, session, argv, request, seconds)
    if (session.guard is not None or argv[1] not in _ACCESS) and (
        filtered := context.api_guard.authorize(session.principal, argv[1].decode(), request, session.addr, PORT)
    ):
        return _filtered(method(request, seconds), filtered)
    if argv[1] != _GET:
        return method(request, seconds)
    if request.HasField("blocks"):
        # Not tracked: this node does not learn of changes of the key.
        found = api.get_blocks(request, seconds, _in_parts)
        if isinstance(found, Coroutine):
            return _blocks_or_get(context, session, request, seconds, found)
        if found is not None:
            return found
    return _get(context, session, request, seconds)


def _get(context: Context, session: Session, request: Any, seconds: float) -> Any:
    place = context.api.admit_object(request)
    if session.tracking:
        context.tracking.track(session.id, place[0].cache_key)
    return context.api.get_at(request, place, seconds, _in_parts)


async def _blocks_or_get(
    context: Context, session: Session, request: Any, seconds: float, reading: Awaitable[Any]
) -> Any:
    deadline = context.clock.now() + seconds
    found = await reading
    if found is None:
        found = _get(context, session, request, max(0.0, deadline - context.clock.now()))
    return await found if isinstance(found, Awaitable) else found


def _in_parts(fields: bytes, value: bytes) -> Large:
    """Return the reply with a response whose value is not copied."""
    return Large((b"$%d\r\n%b" % (len(fields) + len(value), fields), value, b"\r\n"))


def _for_user(context: Context, session: Session, argv: list[bytes], request: Any, seconds: float) -> Any:
    """Do the same with the permissions and limits of the user whom the last argument names."""
    guard, name = context.api_guard, argv[5].decode(errors="replace")
    principal = guard.access.on_behalf_of(session.principal, name, session.addr, PORT)
    filtered = guard.authorize(principal, argv[1].decode(), request, session.addr, PORT)
    method = context.api.by_word[argv[1]][2]
    reply: bytes | Awaitable[bytes]
    if argv[1] == _GET:
        reply = context.api.get_at(request, context.api.admit_object(request), seconds)
    else:
        reply = method(request, seconds)
    user = principal.guard
    if filtered is None and (user is None or not user.bytes_rate):
        return reply

    async def charged() -> bytes:
        response: bytes = await reply if isinstance(reply, Awaitable) else reply
        if user is not None:
            guard.charge(user, len(argv[3]) + len(response))
        return filtered(response) if filtered is not None else response

    return charged()


async def _filtered(calling: Awaitable[bytes], filtered: Filter) -> bytes:
    return filtered(await calling)
