"""Coordination. Commands on values, which Redis calls strings: GET, SET, MGET, MSET and the like.

A SET without a condition is a plain write. One whose effect or reply depends on the existing object (NX, XX, GET,
KEEPTTL, IFEQ, IFNE) is a read-modify-write, and `modify` for the ordering of commands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any

from milena_cache.objects.expiry import NEVER
from milena_cache.objects.write_request import Ack, Change
from milena_cache.reads.read_modify_write import Decided
from milena_cache.reads.reader import FENCED
from milena_cache.servers.resp.commands.data.deciding import decide_on, handler_of, reply_of
from milena_cache.servers.resp.commands.data.reading import (
    MAX_KEYS_AT_ONCE,
    for_each,
    look,
    place_all,
    places,
    read_part,
)
from milena_cache.servers.resp.commands.data.writing import write_all
from milena_cache.servers.resp.decisions import strings as decisions
from milena_cache.servers.resp.decisions.set_options import (
    DEPENDS,
    Options,
    getex_options,
    msetex_options,
    receipt_of,
    set_options,
)
from milena_cache.servers.resp.decisions.timestamps import as_ms, as_timestamp, expiry_in_ms
from milena_cache.servers.resp.dispatch.call_times import remaining_seconds
from milena_cache.servers.resp.dispatch.command import ALL_KEYS, KEYS_WITH_VALUES, ONE_KEY, Handler
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_cache.service.requests import Place
from milena_common.api.errors import MilenaError
from milena_common.api.keys import check_value_size
from milena_common.forwarding.numbered_keys import KEYS_OF_MSETEX
from milena_common.resp.encoding import OK, Pieces, Raw, bulk, null
from milena_common.resp.redis_replies import CommandError, integer, wrong_arity
from milena_common.runtime.clock import monotonic_ms
from milena_common.runtime.deadlines import inner

COMMANDS = CommandTable[Context](group="string", categories=("string",))


@COMMANDS.command(
    "get",
    arity=2,
    access="read",
    keys=ONE_KEY,
    operation="get",
    flags=("fast",),
    summary="Returns the string value of a key.",
    decide=decisions.get,
)
def get(context: Context, session: Session, argv: list[bytes]) -> Any:
    target, owned_since = context.place_to_read(argv[1])
    if session.tracking and owned_since != FENCED:
        context.tracking.track(session.id, target.cache_key)
    return context.node.read(target, context.timeout, owned_since)


class _Room:
    """The bytes that the values of one reply may still take."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._remaining = limit

    def reserve(self, size: int) -> None:
        """Take `size` bytes. Raises CommandError if fewer are left."""
        self._remaining -= size
        if self._remaining < 0:
            raise CommandError(
                f"ERR the reply has more than {self._limit} bytes (RESP_OUTPUT_BYTES); request fewer keys at once"
            )


@COMMANDS.command(
    "mget",
    arity=-2,
    access="read",
    keys=ALL_KEYS,
    operation="get",
    flags=("fast",),
    complexity="O(N) where N is the number of keys to retrieve.",
    summary="Returns the string values of one or more keys.",
    decide=decisions.mget,
)
def mget(context: Context, session: Session, argv: list[bytes]) -> Any:
    keys = argv[1:]
    limit = max(context.config.resp_output_bytes, context.config.max_value_bytes)
    room = _Room(limit)
    missing = null(session.protocol)
    parts: list[bytes] = []
    number = 0
    if len(keys) > MAX_KEYS_AT_ONCE:
        return _mget_many(context, session, keys, room)
    if not session.tracking:
        number = context.plain_gets.serve(keys, context.clock.now(), parts, limit)
    if number == len(keys):
        return Pieces((b"*%d\r\n" % number, *parts))
    room.reserve(sum(map(len, parts)))

    others = _values(context, places(context, session, keys[number:]), room, missing)
    parts.insert(0, b"*%d\r\n" % len(keys))
    return Pieces((*parts, *others)) if isinstance(others, list) else _and_others(parts, others)


def _values(
    context: Context, targets: list[Place], room: _Room, missing: bytes
) -> list[bytes] | Coroutine[Any, Any, list[bytes]]:
    """Return the encoded values of `targets`, or an awaitable of them."""

    def encoded(value: bytes | None) -> bytes:
        room.reserve(len(value or b""))
        return missing if value is None else bulk(value)

    def known(place: Place) -> bytes | None:
        reply = context.node.lookup(*place)
        return None if reply is None else encoded(reply.entry.value)

    async def fetch(place: Place) -> bytes:
        target, owned_since = place
        return encoded((await context.node.get(target, context.timeout, owned_since)).entry.value)

    return for_each(targets, known, fetch, context.timeout)


async def _mget_many(context: Context, session: Session, keys: list[bytes], room: _Room) -> Pieces:
    missing = null(session.protocol)
    targets = await place_all(context, session, keys, reading=True)
    values = _values(context, targets, room, missing)
    return Pieces((b"*%d\r\n" % len(keys), *(values if isinstance(values, list) else await values)))


async def _and_others(parts: list[bytes], others: Awaitable[list[bytes]]) -> Pieces:
    return Pieces((*parts, *await others))


@COMMANDS.command(
    "getex",
    arity=-2,
    access="modify",
    keys=ONE_KEY,
    operation="get",
    flags=("fast",),
    since="6.2.0",
    summary="Returns the string value of a key after setting its expiration time.",
    decide=decisions.getex,
)
def getex(context: Context, session: Session, argv: list[bytes]) -> Any:
    options = getex_options(argv)
    if not options.expiry_option and not options.persist:
        return get(context, session, argv)
    return reply_of(decide_on(context, argv, ONE_KEY, decisions.getex, counted=True))


COMMANDS.command(
    "getdel",
    arity=2,
    access="modify",
    keys=ONE_KEY,
    operation="delete",
    flags=("fast",),
    since="6.2.0",
    summary="Returns the string value of a key after deleting the key.",
    decide=decisions.getdel,
)(handler_of(decisions.getdel, counted=True))


@COMMANDS.command(
    "strlen",
    arity=2,
    access="read",
    keys=ONE_KEY,
    operation="get",
    flags=("fast",),
    since="2.2.0",
    summary="Returns the length of a string value.",
    decide=decisions.strlen,
)
def strlen(context: Context, session: Session, argv: list[bytes]) -> Any:
    return look(context, session, argv[1], lambda _, size: size)


@COMMANDS.command(
    "substr",
    arity=4,
    access="read",
    keys=ONE_KEY,
    operation="get",
    complexity="O(N) where N is the length of the returned string.",
    summary="Returns a substring of the string stored at a key.",
    decide=decisions.getrange,
)
@COMMANDS.command(
    "getrange",
    arity=4,
    access="read",
    keys=ONE_KEY,
    operation="get",
    since="2.4.0",
    complexity="O(N) where N is the length of the returned string.",
    summary="Returns a substring of the string stored at a key.",
    decide=decisions.getrange,
)
def getrange(context: Context, session: Session, argv: list[bytes]) -> Any:
    start, end = integer(argv[2]), integer(argv[3])
    return read_part(context, session, argv[1], lambda size: decisions.part_of(size, start, end))


def is_modifying(argv: list[bytes]) -> bool:
    """True if the effect or the reply of a SET depends on the existing object."""
    return len(argv) > 3 and not DEPENDS.isdisjoint(word.upper() for word in argv[3:])


def is_blind(argv: list[bytes]) -> bool:
    """True if a SET, SETEX or MSET writes its keys without regard to what they are."""
    return argv[0].upper() != b"SET" or not is_modifying(argv)


@COMMANDS.command(
    "set",
    arity=-3,
    access="write",
    keys=ONE_KEY,
    operation="put",
    flags=("denyoom",),
    summary="Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.",
    alone=is_modifying,
    decide=decisions.set_,
    blind=is_blind,
)
def set_(context: Context, session: Session, argv: list[bytes]) -> Any:
    options = Options() if len(argv) == 3 else set_options(argv)
    timeout = timeout_of(context, session, options)
    if len(argv) > 3 and options.depends:
        return _set_if(context, options, argv, timeout)
    expires_ms = options.expires_ms("set", as_ms(context.clock.wall())) if options.expiry_option else 0
    target, owned_since = context.place(argv[1])
    value = argv[2]
    expires_at = as_timestamp(expires_ms) if expires_ms else NEVER
    change = Change(target, value, owned_since=owned_since, expires_at=expires_at)
    begun = context.node.writes.begin(change, options.durability, timeout)
    if not options.receipt:
        return begun
    context.requests.received_bytes += len(value)
    return _with_receipt(context, begun)


def _setex_as(name: str, *, seconds: bool) -> Handler[Context]:
    """Return the handler of SETEX or PSETEX."""

    def setex(context: Context, session: Session, argv: list[bytes]) -> Any:
        now_ms = as_ms(context.clock.wall())
        expires_ms = expiry_in_ms(argv[2], name, now_ms, seconds=seconds, absolute=False, positive=True)
        target, owned_since = context.place(argv[1])
        change = Change(target, argv[3], owned_since=owned_since, expires_at=as_timestamp(expires_ms))
        return context.node.writes.begin(change, None, context.timeout)

    return setex


for _name, _in_seconds, _since in (("setex", True, "2.0.0"), ("psetex", False, "2.6.0")):
    COMMANDS.command(
        _name,
        arity=4,
        access="write",
        keys=ONE_KEY,
        operation="put",
        flags=("denyoom",),
        since=_since,
        summary="Sets the string value and the expiration time of a key.",
        decide=decisions.setex_as(_name, seconds=_in_seconds),
        blind=is_blind,
    )(_setex_as(_name, seconds=_in_seconds))


def timeout_of(context: Context, session: Session, options: Options) -> float:
    """Return the seconds that a SET has. Raises as `remaining_seconds` does."""
    if not options.timeout:
        return context.timeout
    now_ms = monotonic_ms(context.clock)
    return inner(remaining_seconds(options.timeout, options.deadline, session.waited, now_ms))


def _with_receipt(context: Context, begun: Ack | Awaitable[Ack]) -> Raw | Coroutine[Any, Any, Raw]:
    if isinstance(begun, Ack):
        return Raw(receipt_of(begun, context.api.address))

    async def wait() -> Raw:
        return Raw(receipt_of(await begun, context.api.address))

    return wait()


def _set_if(context: Context, options: Options, argv: list[bytes], timeout: float) -> Any:
    check_value_size(len(argv[2]), context.config.max_value_bytes)
    begun = decide_on(
        context,
        argv,
        ONE_KEY,
        decisions.set_,
        counted=options.get,
        timeout=timeout,
        durability=options.durability,
    )
    return _receipt_if_written(context, begun) if options.receipt else reply_of(begun)


async def _receipt_if_written(context: Context, begun: Decided | Awaitable[Decided]) -> Any:
    done = begun if isinstance(begun, Decided) else await begun
    return Raw(receipt_of(done.acks[0], context.api.address)) if done.acks else done.reply


@COMMANDS.command(
    "mset",
    arity=-3,
    access="modify",
    keys=KEYS_WITH_VALUES,
    operation="put",
    flags=("denyoom",),
    since="1.0.1",
    complexity="O(N) where N is the number of keys to set.",
    summary="Creates or modifies the string values of one or more keys.",
    decide=decisions.mset,
    blind=is_blind,
)
def mset(context: Context, session: Session, argv: list[bytes]) -> Any:
    if len(argv) % 2 == 0:
        raise wrong_arity("mset")
    for value in argv[2::2]:
        check_value_size(len(value), context.config.max_value_bytes)
    if len(argv) > 2 * MAX_KEYS_AT_ONCE:
        return _mset_many(context, session, argv)
    return _mset(context, places(context, session, argv[1::2], reading=False), argv[2::2], NEVER, Raw(OK))


async def _mset_many(context: Context, session: Session, argv: list[bytes]) -> Any:
    targets = await place_all(context, session, argv[1::2], reading=False)
    reply = _mset(context, targets, argv[2::2], NEVER, Raw(OK))
    return await reply if isinstance(reply, Awaitable) else reply


def _mset(context: Context, targets: list[Place], values: list[bytes], expires_at: float, reply: Any) -> Any:
    """Write each of `targets` by itself, and return `reply`, or an awaitable of it."""
    writes = (
        Change(place, value, owned_since=owned_since, expires_at=expires_at)
        for (place, owned_since), value in zip(targets, values, strict=True)
    )
    return write_all(context, writes, reply)


def is_blind_msetex(argv: list[bytes]) -> bool:
    """True if an MSETEX writes its keys without regard to what they are."""
    try:
        _, options = msetex_options(argv)
    except (CommandError, MilenaError):
        return False
    return not options.depends


@COMMANDS.command(
    "msetex",
    arity=-4,
    access="modify",
    operation="put",
    flags=("denyoom", "movablekeys"),
    since="8.4.0",
    complexity="O(N) where N is the number of keys to set.",
    summary="Sets the string values of several keys, with one expiration time.",
    decide=decisions.msetex,
    blind=is_blind_msetex,
    numbered_keys=KEYS_OF_MSETEX,
)
def msetex(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Set the keys as MSET does; with NX, XX or KEEPTTL as one, which is decided by what they are."""
    end, options = msetex_options(argv)
    values = argv[3:end:2]
    for value in values:
        check_value_size(len(value), context.config.max_value_bytes)
    if options.depends:
        return reply_of(decide_on(context, argv, (2, end - 2, 2), decisions.msetex))
    expires_ms = options.expires_ms("msetex", as_ms(context.clock.wall())) if options.expiry_option else 0
    expires_at = as_timestamp(expires_ms) if expires_ms else NEVER
    keys = argv[2:end:2]
    if len(keys) > MAX_KEYS_AT_ONCE:
        return _msetex_many(context, session, keys, values, expires_at)
    return _mset(context, places(context, session, keys, reading=False), values, expires_at, 1)


async def _msetex_many(
    context: Context, session: Session, keys: list[bytes], values: list[bytes], expires_at: float
) -> Any:
    targets = await place_all(context, session, keys, reading=False)
    reply = _mset(context, targets, values, expires_at, 1)
    return await reply if isinstance(reply, Awaitable) else reply
