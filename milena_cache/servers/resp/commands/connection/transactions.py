"""Coordination. MULTI, EXEC, DISCARD, WATCH, UNWATCH: commands on the keys of one slot, all of them or none.

Between MULTI and EXEC commands are checked and queued (`Running`); EXEC has the owner of their keys carry them out,
this node or another one (`execution`). A transaction of nothing but SETs without options is queued and carried out
by `PlainSets`, where it can.

An error of a command while it is queued fails the transaction, as in Redis; one while it is carried out is its
reply.

WATCH is by version: EXEC replies with null, and nothing was done, if a watched key is not what it was, or if one
process has not owned its slot all the time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from milena_cache.servers.resp.commands.data.deciding import MAX_TOGETHER
from milena_cache.servers.resp.commands.data.execution import Exec, look_at, remember
from milena_cache.servers.resp.dispatch.command import ALL_KEYS
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.transaction import CommandQueue, Watched
from milena_cache.servers.resp.state.context import Context
from milena_common.forwarding.transactions import (
    ABORTED,
    NESTED,
    NOT_BEGUN,
    NOT_BEGUN_DISCARD,
    WATCH,
    WATCH_INSIDE,
    check_watched,
    decode_watched,
)
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.redis_replies import CommandError

COMMANDS = CommandTable[Context](categories=("transaction",), group="transactions")


@COMMANDS.command(
    "multi",
    arity=1,
    flags=("noscript", "loading", "stale", "fast", "allow_busy"),
    since="1.2.0",
    summary="Starts a transaction.",
    allowed_in_transaction=True,
)
def multi(context: Context, session: Session, argv: list[bytes]) -> Raw:
    if session.transaction is not None:
        raise CommandError(NESTED)
    session.transaction = CommandQueue()
    return Raw(OK)


@COMMANDS.command(
    "discard",
    arity=1,
    flags=("noscript", "loading", "stale", "fast", "allow_busy"),
    since="2.0.0",
    summary="Discards a transaction.",
    allowed_in_transaction=True,
)
def discard(context: Context, session: Session, argv: list[bytes]) -> Raw:
    if session.transaction is None:
        raise CommandError(NOT_BEGUN_DISCARD)
    session.end_transaction()
    return Raw(OK)


@COMMANDS.command(
    "watch",
    arity=-2,
    keys=ALL_KEYS,
    flags=("noscript", "loading", "stale", "fast", "allow_busy"),
    since="2.2.0",
    complexity="O(1) for every key.",
    summary="Monitors changes to keys to determine the execution of a transaction.",
    behind_all=True,
    allowed_in_transaction=True,
)
def watch(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Remember what the keys are. Raises CommandError in a transaction, and if they are too many."""
    if session.transaction is not None:
        raise CommandError(WATCH_INSIDE)
    forwarder = context.forwarder_for(session)
    if forwarder is not None and forwarder.is_elsewhere(argv[1:]):
        keys = [key for key in dict.fromkeys(forwarder.cache_keys(argv[1:])) if key not in session.watched]
        check_watched(len(session.watched) + len(keys))
        if not keys:
            return Raw(OK)
        now = context.clock.now()
        sent = [b"MILENA.WATCH", *keys]
        reply = forwarder.request(WATCH, keys, sent, now, lambda: look_at(context, keys))
        return _remember_later(session, _decoded(reply, keys))
    places = {place[0].cache_key: place for place in map(context.place, argv[1:])}
    new = {key: place for key, place in places.items() if key not in session.watched}
    check_watched(len(session.watched) + len(new))
    found = remember(context, new)
    if isinstance(found, Awaitable):
        return _remember_later(session, found)
    session.watched.update(found)
    return Raw(OK)


async def _decoded(reply: Awaitable[bytes], keys: list[bytes]) -> Mapping[bytes, Watched]:
    return {key: Watched.decode(each) for key, each in decode_watched(await reply, keys).items()}


def _remember_later(session: Session, found: Awaitable[Mapping[bytes, Watched]]) -> Awaitable[Raw]:
    """Remember what was found when it is there; until then the commands behind wait."""
    session.executing = True

    async def later() -> Raw:
        try:
            session.watched.update(await found)
        finally:
            session.executing = False
        return Raw(OK)

    return later()


@COMMANDS.command(
    "unwatch",
    arity=1,
    flags=("noscript", "loading", "stale", "fast", "allow_busy"),
    since="2.2.0",
    summary="Forgets about watched keys of a transaction.",
)
def unwatch(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.watched.clear()
    return Raw(OK)


@COMMANDS.command(
    "exec",
    arity=1,
    flags=("noscript", "loading", "stale"),
    since="1.2.0",
    complexity="Depends on commands in the transaction",
    summary="Executes all commands in a transaction.",
    behind_all=True,
    allowed_in_transaction=True,
)
def exec_(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Carry the transaction out. Raises CommandError, and what its writes raise, of which none was made then.

    Of errors whose text says that the outcome is unknown all were made, or none.
    """
    transaction, watched = session.transaction, session.watched
    if transaction is None:
        raise CommandError(NOT_BEGUN)
    session.end_transaction()
    if transaction.failed:
        raise CommandError(ABORTED)
    sets = transaction.sets
    if sets is not None and not watched and len(sets[0]) <= MAX_TOGETHER and context.plain_sets.execute(*sets):
        return Raw(b"*%d\r\n%b" % (len(sets[0]), OK * len(sets[0])))
    result = Exec(context, session, transaction.commands, watched).execute()
    if not isinstance(result, Awaitable):
        return result
    session.executing = True
    return _until_done(session, result)


async def _until_done(session: Session, result: Awaitable[Any]) -> Any:
    """Return the awaited reply; until then the commands behind wait."""
    try:
        return await result
    finally:
        session.executing = False
