"""Coordination. MULTI, EXEC, DISCARD, WATCH, UNWATCH: commands on the keys of one slot, all of them or none.

Between MULTI and EXEC commands are checked and queued (`Running`). EXEC reads all their keys, has each command
decide upon what those before it have made of them, and writes the result by one commit of the journal, see
`ReadModifyWrite`: with nothing in between, and all or nothing, also over a crash. Commands without keys are carried
out after that, only if it has succeeded.

An error of a command while it is queued fails the transaction, as in Redis; one while it is carried out is its
reply.

WATCH is by version: EXEC replies with null, and nothing was done, if a watched key is not what it was, or if this
node has not owned its slot all the time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from milena_cache.objects.entry import Entry
from milena_cache.reads.read_modify_write import Decided, NewValue, Otherwise, Place, ReadModifyWrite
from milena_cache.servers.resp.commands.data.deciding import (
    MAX_TOGETHER,
    check_one_slot,
    positions,
    values_of,
)
from milena_cache.servers.resp.decisions.values import Unread
from milena_cache.servers.resp.dispatch.command import ALL_KEYS
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.transaction import MAX_WATCHED, Queued, Transaction, Watched
from milena_cache.servers.resp.state.context import Context
from milena_common.api.errors import MilenaError, TryAgain
from milena_common.resp.encoding import OK, NullArray, Pieces, Raw, encode
from milena_common.resp.errors import to_resp
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
        raise CommandError("ERR MULTI calls can not be nested")
    session.transaction = Transaction()
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
        raise CommandError("ERR DISCARD without MULTI")
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
        raise CommandError("ERR WATCH inside MULTI is not allowed")
    places = {place[0].cache_key: place for place in map(context.place, argv[1:])}
    new = {key: place for key, place in places.items() if key not in session.watched}
    if len(session.watched) + len(new) > MAX_WATCHED:
        raise CommandError(f"ERR a connection can watch at most {MAX_WATCHED} keys")
    node = context.node.uncounted
    found: dict[bytes, Entry] = {}
    for key, place in new.items():
        reply = node.lookup(*place)
        if reply is None:
            session.executing = True
            return _watch_later(context, session, new)
        found[key] = reply.entry
    session.watched.update(_as_they_are(context, new, found))
    return Raw(OK)


async def _watch_later(context: Context, session: Session, places: Mapping[bytes, Place]) -> Raw:
    def remember(found: Mapping[bytes, Entry]) -> tuple[Any, Mapping[bytes, NewValue | Otherwise]]:
        return _as_they_are(context, places, found), {}

    try:
        begun = _read_modify_write(context, places, set(places), remember).carry_out()
        session.watched.update((begun if isinstance(begun, Decided) else await begun).reply)
    finally:
        session.executing = False
    return Raw(OK)


def _as_they_are(
    context: Context, places: Mapping[bytes, Place], found: Mapping[bytes, Entry]
) -> dict[bytes, Watched]:
    """Return what the keys are; in the same step of the event loop in which they were read."""
    dirty = context.node.dirty
    watched: dict[bytes, Watched] = {}
    for key, (_, owned_since) in places.items():
        entry, write = found[key], dirty.get(key)
        version = None if write is None else write.version
        exists = entry.value is not None
        watched[key] = Watched(owned_since, version, exists, entry.etag if exists else "", entry.expires_at)
    return watched


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
        raise CommandError("ERR EXEC without MULTI")
    session.end_transaction()
    if transaction.failed:
        raise CommandError("EXECABORT Transaction discarded because of previous errors.")
    execution = _Execution(context, session, transaction.commands, watched)
    try:
        result = execution.attempt()
    except TryAgain as error:
        # Its slot is handed over. Not by the caller, which would call `exec_` again, without a transaction.
        result = context.slot_waiters.repeat(execution.attempt, error)
    if not isinstance(result, Awaitable):
        return result
    session.executing = True
    return execution.until_done(result)


class _Execution:
    """A transaction that is carried out."""

    def __init__(
        self, context: Context, session: Session, commands: list[Queued], watched: Mapping[bytes, Watched]
    ) -> None:
        self._context = context
        self._session = session
        self._commands = commands
        self._watched = watched

    def attempt(self) -> Any:
        """Return the reply, or an awaitable of it. Raises as `exec_`, and TryAgain, when nothing was done."""
        try:
            return self._attempt(blindly=True)
        except Unread:
            return self._attempt(blindly=False)

    def _attempt(self, *, blindly: bool) -> Any:
        """Do what `attempt` does. `blindly`: what is written before it is looked at is not read from S3."""
        context, session = self._context, self._session
        places: dict[bytes, Place] = {}
        read: dict[bytes, None] = {}
        commands: list[Queued] = []
        for command, argv in self._commands:
            if command.keys[0]:
                argv = list(argv)
                blind = blindly and command.blind(argv)
                for at in positions(argv, command.keys):
                    place = context.place(argv[at])
                    key = argv[at] = place[0].cache_key
                    if key not in places and not blind:
                        read[key] = None
                        if session.tracking and command.access == "read":
                            context.tracking.track(session.id, key)
                    places[key] = place
            commands.append(Queued(command, argv))
        for key in self._watched:
            if key not in places:
                places[key] = context.place(key)
            read[key] = None
        if len(places) > MAX_TOGETHER:
            raise CommandError(
                f"ERR the transaction has {len(places)} keys; at most {MAX_TOGETHER} are allowed; nothing was done"
            )
        check_one_slot(context, places)
        if not places:
            return self._replied([None] * len(commands))

        def decide(found: Mapping[bytes, Entry]) -> tuple[Any, Mapping[bytes, NewValue | Otherwise]]:
            now = _as_they_are(context, {key: places[key] for key in self._watched}, found)
            if any(before.is_changed(now[key]) for key, before in self._watched.items()):
                return None, {}
            values = values_of(context, dict(found))
            replies: list[Any] = []
            size = 0
            for command, argv in commands:
                reply: Any = None
                if command.keys[0]:
                    try:
                        reply = command.decide(values, argv)
                    except (CommandError, MilenaError) as error:
                        reply = error
                    if isinstance(reply, bytes):
                        size += len(reply)
                    elif isinstance(reply, list):
                        size += sum([len(each) for each in reply if isinstance(each, bytes)])
                replies.append(reply)
            if size > max(context.config.resp_output_bytes, context.config.max_value_bytes):
                raise CommandError("ERR the reply has too many bytes (RESP_OUTPUT_BYTES); nothing was done")
            return replies, values.changes()

        begun = _read_modify_write(context, places, read, decide).carry_out()
        return self._replied(begun.reply) if isinstance(begun, Decided) else self._later(begun)

    async def _later(self, begun: Awaitable[Decided]) -> Any:
        try:
            result = self._replied((await begun).reply)
        except Unread:
            result = self._attempt(blindly=False)
        return await result if isinstance(result, Awaitable) else result

    def _replied(self, replies: list[Any] | None) -> Any:
        """Return the reply of EXEC, or an awaitable of it, and carry out the commands without keys."""
        if replies is None:
            return NullArray()
        context, session = self._context, self._session
        waits = False
        for number, (command, argv) in enumerate(self._commands):
            if not command.keys[0]:
                try:
                    replies[number] = command.handler(context, session, argv)
                except (CommandError, MilenaError) as error:
                    replies[number] = error
                waits = waits or isinstance(replies[number], Awaitable)
        return self._awaited(replies) if waits else self._encoded(replies)

    async def _awaited(self, replies: list[Any]) -> Pieces:
        for number, reply in enumerate(replies):
            if isinstance(reply, Awaitable):
                try:
                    replies[number] = await reply
                except (CommandError, MilenaError) as error:
                    replies[number] = error
        return self._encoded(replies)

    def _encoded(self, replies: list[Any]) -> Pieces:
        metrics, session = self._context.command_metrics, self._session
        now = self._context.clock.now()
        pieces = [b"*%d\r\n" % len(replies)]
        for (command, argv), reply in zip(self._commands, replies, strict=True):
            if isinstance(reply, CommandError | MilenaError):
                pieces.append(metrics.error_reply(reply, command, command.name, argv, encrypted=session.encrypted))
            elif isinstance(reply, Pieces):
                pieces.extend(reply)
            else:
                pieces.append(encode(reply, session.protocol))
            metrics.replied(command, command.name, argv, session, now)
        return Pieces(pieces)

    async def until_done(self, result: Awaitable[Any]) -> Any:
        """Return the awaited reply; until then the commands behind wait."""
        try:
            try:
                return await result
            except TryAgain as error:
                return await self._context.slot_waiters.repeat(self.attempt, error)
        except TryAgain as error:
            raise CommandError(to_resp(error)) from None  # the caller would repeat it
        finally:
            self._session.executing = False


def _read_modify_write(context: Context, places: Any, read: Any, decide: Any) -> ReadModifyWrite:
    node = context.node.uncounted
    return ReadModifyWrite(node, context.node.writes, context.clock, places, read, decide, context.timeout)
