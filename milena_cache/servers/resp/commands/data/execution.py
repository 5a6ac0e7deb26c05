"""Coordination. Carries out transactions: the commands of a queue, with nothing in between, by one commit.

All keys are read, each command decides upon what those before it have made of them, and the result is written by
one commit of the journal, see `ReadModifyWrite`: all or nothing, also over a crash. Scripts are such commands too;
if one is stopped, nothing is done. Commands without keys are
carried out after that, by the node of the client, only if it has succeeded.

If the keys are another node's, that carries it out, as one command (`milena_common.forwarding.transactions`). The
slot may move in the meantime: (1) keys are watched at A; (2) their slot moves to B, where another client writes
them; (3) the transaction comes to B, which compares versions. What was watched therefore has the process and the
epoch since which it owned the slot, and B replies that it has changed. Without watched keys B carries it out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final

from milena_cache.objects.entry import Entry
from milena_cache.reads.read_modify_write import Decided, NewValue, Otherwise, Place, ReadModifyWrite
from milena_cache.servers.resp.commands.data.deciding import MAX_TOGETHER, check_one_slot, values_of
from milena_cache.servers.resp.decisions.values import NothingDone, Unread, Values
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.transaction import QueuedCommand, Watched
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.forwarder import Forwarder
from milena_common.api.errors import MilenaError, Moved, TryAgain
from milena_common.forwarding.routing import in_protocol
from milena_common.forwarding.transactions import EXEC, decode_replies, encode_exec
from milena_common.resp.encoding import NullArray, Pieces, Raw, encode
from milena_common.resp.errors import to_resp
from milena_common.resp.redis_replies import CommandError

# The event loop waits for the scripts of a transaction: one does not begin after those before it took so long.
SCRIPT_SECONDS: Final = 0.1

# The replies to the commands with keys, by their place; None: a watched key has changed, and nothing was done.
Replies = dict[int, Any] | None


class Execution:
    """The commands on keys of a transaction, which this node owns. `commands`: also those without keys."""

    def __init__(
        self,
        context: Context,
        session: Session,
        commands: Sequence[QueuedCommand],
        watched: Mapping[bytes, Watched],
    ) -> None:
        self._context = context
        self._session = session
        self._commands = commands
        self._watched = watched
        self._script_seconds = 0.0  # that the scripts of the present attempt have taken

    def attempt(self) -> Replies | Awaitable[Replies]:
        """Return the replies, or an awaitable of them. Raises as EXEC, and Moved and TryAgain: nothing was done."""
        try:
            return self._attempt(blindly=True)
        except Unread:
            return self._attempt(blindly=False)
        except Moved:
            # A ring of one node takes keys of all slots: it may have grown since they were queued.
            check_one_slot(self._context, [self._context.cache_key(key) for key in self.keys])
            raise

    @property
    def keys(self) -> list[bytes]:
        """Return the keys, those of commands as the client calls them."""
        keys = dict.fromkeys(self._watched)
        for command, argv in self._commands:
            keys.update(dict.fromkeys(command.keys_in(argv)))
        return list(keys)

    def _attempt(self, *, blindly: bool) -> Replies | Awaitable[Replies]:
        """Do what `attempt` does. `blindly`: what is written before it is looked at is not read from S3."""
        context, session = self._context, self._session
        places: dict[bytes, Place] = {}
        read: dict[bytes, None] = {}
        commands: list[tuple[int, QueuedCommand]] = []
        for number, (command, argv) in enumerate(self._commands):
            if command.has_keys:
                named, by_name = list(argv), argv
                blind = blindly and command.blind(argv)
                for at in command.positions(argv):
                    place = context.place(argv[at])
                    key = named[at] = place[0].cache_key
                    # A script may look at what a command before it was to replace, and did not.
                    if (key not in places and not blind) or command.decide_in is not None:
                        read[key] = None
                        if session.tracking and command.access == "read":
                            context.tracking.track(session.id, key)
                    places[key] = place
                commands.append((number, QueuedCommand(command, named if command.decide else by_name)))
        for key in self._watched:
            if key not in places:
                places[key] = context.place(key)
            read[key] = None
        if len(places) > MAX_TOGETHER:
            raise CommandError(
                f"ERR the transaction has {len(places)} keys; at most {MAX_TOGETHER} are allowed; nothing was done"
            )
        check_one_slot(context, places)

        def decide(found: Mapping[bytes, Entry]) -> tuple[Replies, Mapping[bytes, NewValue | Otherwise]]:
            now = _as_they_are(context, {key: places[key] for key in self._watched}, found)
            if any(before.is_changed(now[key]) for key, before in self._watched.items()):
                return None, {}
            values = values_of(context, dict(found))
            self._script_seconds = 0.0
            replies: dict[int, Any] = {}
            size = 0
            for number, (command, argv) in commands:
                try:
                    reply = self._decide(command, values, argv)
                except NothingDone:
                    raise  # the script may have changed some of `values`
                except (CommandError, MilenaError) as error:
                    reply = error
                if isinstance(reply, bytes):
                    size += len(reply)
                elif isinstance(reply, list):
                    size += sum([len(each) for each in reply if isinstance(each, bytes)])
                replies[number] = reply
            if size > max(context.config.resp_output_bytes, context.config.max_value_bytes):
                raise CommandError("ERR the reply has too many bytes (RESP_OUTPUT_BYTES); nothing was done")
            return replies, values.changes()

        if not places:  # of scripts, which may have none
            return decide({})[0]
        begun = _read_modify_write(context, places, read, decide).carry_out()
        if isinstance(begun, Decided):
            replies: Replies = begun.reply
            return replies
        return self._later(begun)

    def _decide(self, command: Any, values: Values, argv: list[bytes]) -> Any:
        """Return the reply to a command. Raises CommandError, MilenaError, which are replies, and NothingDone."""
        if command.decide_in is None:
            return command.decide(values, argv)
        if self._script_seconds > SCRIPT_SECONDS:
            raise NothingDone(
                f"ERR the scripts of the transaction take more than {SCRIPT_SECONDS:g} s together; nothing was done"
            )
        now = self._context.clock.now
        started = now()
        reply: Raw = command.decide_in(self._context)(values, argv)
        self._script_seconds += now() - started
        if reply.startswith(b"-"):
            raise CommandError(reply[1:-2].decode(errors="replace"))
        return Raw(in_protocol(reply, self._session.protocol))

    async def _later(self, begun: Awaitable[Decided]) -> Replies:
        try:
            replies: Replies = (await begun).reply
            return replies
        except Unread:
            result = self._attempt(blindly=False)
        return await result if isinstance(result, Awaitable) else result


class Exec:
    """The EXEC of a client: its transaction, wherever the keys are, and the reply."""

    def __init__(
        self, context: Context, session: Session, commands: list[QueuedCommand], watched: Mapping[bytes, Watched]
    ) -> None:
        self._context = context
        self._session = session
        self._commands = commands
        self._watched = watched
        self._forwarder = context.forwarder_for(session)
        self._execution = Execution(context, session, commands, watched)

    def execute(self) -> Any:
        """Return the reply, or an awaitable of it. Raises, or that does, as EXEC."""
        forwarder = self._forwarder
        try:
            if forwarder is not None and forwarder.is_elsewhere(self._execution.keys):
                return self._forward(forwarder)
            result = self._execution.attempt()
        except TryAgain as error:
            # Its slot is handed over. Not by the caller, which would call EXEC again, without a transaction.
            return self._again(error)
        except Moved:
            if forwarder is None:
                raise
            return self._forward(forwarder)
        return self._later(result) if isinstance(result, Awaitable) else self._replied(result)

    async def _later(self, result: Awaitable[Replies]) -> Any:
        try:
            replies = await result
        except TryAgain as error:
            return await self._again(error)
        except Moved:
            if self._forwarder is None:
                raise
            return await self._forward(self._forwarder)
        return await self._awaited(replies)

    async def _again(self, error: TryAgain) -> Any:
        """Carry it out once more when the slots change."""
        try:
            return await self._awaited(await self._context.slot_waiters.repeat(self._execution.attempt, error))
        except TryAgain as again:
            raise CommandError(to_resp(again)) from None  # the caller would repeat it
        except Moved:
            if self._forwarder is None:
                raise
            return await self._forward(self._forwarder)

    async def _forward(self, forwarder: Forwarder) -> Any:
        """Have the owner of the keys carry it out."""
        context, session = self._context, self._session
        keys = list(dict.fromkeys(forwarder.cache_keys(self._execution.keys)))
        check_one_slot(context, keys)
        with_keys = [number for number, (command, _) in enumerate(self._commands) if command.has_keys]
        argv = encode_exec(
            keys[0],
            {key: each.encode() for key, each in self._watched.items()},
            [self._commands[number].argv for number in with_keys],
        )
        own = [self._commands[number] for number in with_keys]
        reply = await forwarder.request(
            EXEC,
            keys,
            argv,
            context.clock.now(),
            lambda: carry_out(context, session, own, self._watched, counted=False),
        )
        replies = decode_replies(reply)
        if replies is None:
            return NullArray()
        protocol = session.protocol
        converted = (Raw(in_protocol(each, protocol)) for each in replies)
        return await self._awaited(dict(zip(with_keys, converted, strict=True)))

    async def _awaited(self, replies: Replies) -> Any:
        result = self._replied(replies)
        return await result if isinstance(result, Awaitable) else result

    def _replied(self, with_keys: Replies) -> Any:
        """Return the reply of EXEC, or an awaitable of it, and carry out the commands without keys."""
        if with_keys is None:
            return NullArray()
        context, session = self._context, self._session
        replies: list[Any] = []
        waits = False
        for number, (command, argv) in enumerate(self._commands):
            if command.has_keys:
                replies.append(with_keys[number])
                continue
            try:
                replies.append(command.handler(context, session, argv))
            except (CommandError, MilenaError) as error:
                replies.append(error)
            waits = waits or isinstance(replies[number], Awaitable)
        if waits:
            return self._encoded_later(replies)
        return _encoded(context, session, self._commands, replies)

    async def _encoded_later(self, replies: list[Any]) -> Pieces:
        for number, reply in enumerate(replies):
            if isinstance(reply, Awaitable):
                try:
                    replies[number] = await reply
                except (CommandError, MilenaError) as error:
                    replies[number] = error
        return _encoded(self._context, self._session, self._commands, replies)


def carry_out(
    context: Context,
    session: Session,
    commands: list[QueuedCommand],
    watched: Mapping[bytes, Watched],
    *,
    counted: bool = True,
) -> Pieces | Awaitable[Pieces | None] | None:
    """Carry out commands with keys for the node of a client: return their encoded replies, None as `Replies`.

    `counted`: in the metrics. Raises as `Execution.attempt`.
    """

    def encoded(replies: Replies) -> Pieces | None:
        if replies is None:
            return None
        return _encoded(context, session, commands, list(replies.values()), counted=counted)

    async def later(result: Awaitable[Replies]) -> Pieces | None:
        return encoded(await result)

    result = Execution(context, session, commands, watched).attempt()
    return later(result) if isinstance(result, Awaitable) else encoded(result)


def _encoded(
    context: Context,
    session: Session,
    commands: Sequence[QueuedCommand],
    replies: Sequence[Any],
    *,
    counted: bool = True,
) -> Pieces:
    """Return the array of the replies to `commands`."""
    metrics = context.command_metrics
    now = context.clock.now()
    pieces = [b"*%d\r\n" % len(replies)]
    for (command, argv), reply in zip(commands, replies, strict=True):
        if isinstance(reply, CommandError | MilenaError):
            pieces.append(metrics.error_reply(reply, command, command.name, argv, encrypted=session.encrypted))
        elif isinstance(reply, Pieces):
            pieces.extend(reply)
        else:
            pieces.append(encode(reply, session.protocol))
        if counted:
            metrics.replied(command, command.name, argv, session, now)
    return Pieces(pieces)


def remember(
    context: Context, places: Mapping[bytes, Place]
) -> Mapping[bytes, Watched] | Awaitable[Mapping[bytes, Watched]]:
    """Return what the keys are, or an awaitable of it. Raises MilenaError."""
    node = context.node.uncounted
    found: dict[bytes, Entry] = {}
    for key, place in places.items():
        reply = node.lookup(*place)
        if reply is None:
            return _read(context, places)
        found[key] = reply.entry
    return _as_they_are(context, places, found)


def look_at(context: Context, keys: Sequence[bytes]) -> list[bytes] | Awaitable[list[bytes]]:
    """Return what the keys are, or an awaitable of it, as nodes send it. Raises MilenaError."""
    places = {place[0].cache_key: place for place in map(context.place, keys)}
    found = remember(context, places)
    if isinstance(found, Awaitable):
        return _sent(found)
    return [each.encode() for each in found.values()]


async def _sent(found: Awaitable[Mapping[bytes, Watched]]) -> list[bytes]:
    return [each.encode() for each in (await found).values()]


async def _read(context: Context, places: Mapping[bytes, Place]) -> Mapping[bytes, Watched]:
    def decide(found: Mapping[bytes, Entry]) -> tuple[Any, Mapping[bytes, NewValue | Otherwise]]:
        return _as_they_are(context, places, found), {}

    begun = _read_modify_write(context, places, set(places), decide).carry_out()
    result: Mapping[bytes, Watched] = (begun if isinstance(begun, Decided) else await begun).reply
    return result


def _as_they_are(
    context: Context, places: Mapping[bytes, Place], found: Mapping[bytes, Entry]
) -> dict[bytes, Watched]:
    """Return what the keys are; in the same step of the event loop in which they were read."""
    dirty, process = context.node.dirty, context.ownership.node_id
    watched: dict[bytes, Watched] = {}
    for key, (_, owned_since) in places.items():
        entry, write = found[key], dirty.get(key)
        version = None if write is None else write.version
        exists = entry.value is not None
        etag = entry.etag if exists else ""
        watched[key] = Watched(process, owned_since, version, exists, etag, entry.expires_at)
    return watched


def _read_modify_write(context: Context, places: Any, read: Any, decide: Any) -> ReadModifyWrite:
    node = context.node.uncounted
    return ReadModifyWrite(node, context.node.writes, context.clock, places, read, decide, context.timeout)
