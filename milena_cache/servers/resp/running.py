"""Coordination. The commands of one connection that have begun, and their replies in the order of the commands.

A command that has its reply at once takes nothing here. One that waits (for S3, for the journal) does not hold up
the commands behind it, only their replies: the pending reply takes a place in `pending`, later replies queue behind
it, and are sent when all before them are there.

Replies in order are not enough, commands must also take effect in order: (1) SET k waits for the journal's sync;
(2) GET k would be replied to from memory at once, with the value from before the SET, although its reply is sent
after the SET's. So a command that conflicts with one in flight on the same key is *parked* until that is done
(`command_ordering`), while commands on other keys go on. While any is parked, commands without keys wait too: (1) a
GET is parked; (2) HELLO or MULTI behind it would begin; (3) the GET would run under the new protocol, or be
queued as part of a transaction that came after it. In a transaction commands are queued, and conflict with nothing.

Parked commands have a place in `pending` and count as in flight: together at most MAX_PENDING. The connection
begins them in its slices, not in the callback that made them ready.

On a connection that defers (CLIENT DEFER) nothing is held up: its commands are concurrent by the client's choice. A
command that changes the form of replies (`behind_all`) waits until no reply is pending.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from milena_cache.servers.resp.dispatch.admission import check_deadline, check_keys, check_member, check_transaction
from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.subcommands import find
from milena_cache.servers.resp.output_buffer import OutputBuffer
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.pending_replies import CommandsInFlight, Large, PendingReply, Reply, encoded
from milena_cache.servers.resp.state.tracking import Work
from milena_cache.servers.resp.unknown_command import UNKNOWN
from milena_common.api.errors import Moved, TryAgain
from milena_common.pubsub.replies import check_subscriber
from milena_common.resp.command_ordering import Access, CommandOrdering
from milena_common.resp.encoding import QUEUED, Raw
from milena_common.resp.redis_replies import unknown_command, wrong_arity


class Running:
    """The commands of one connection that have begun.

    on_reply: called after the reply to a command that waited
    pending: the replies that are due or queued behind one that is due, in the order of the commands
    in_flight: number and bytes of the commands in flight
    at: when the latest command began, monotonic seconds
    slow_until: when the client last began to read again, monotonic seconds
    """

    def __init__(self, context: Context, session: Session, out: OutputBuffer, on_reply: Callable[[], None]) -> None:
        self._context = context
        self._session = session
        self._out = out
        self._on_reply = on_reply
        self._now = context.clock.now
        self._command_metrics = context.command_metrics
        self._limited = context.config.rate_limit > 0
        self._timeout = context.timeout
        self._busy: CommandOrdering[PendingReply] = CommandOrdering()
        self._next_deferred = 0
        self.pending: deque[PendingReply] = deque()
        self.in_flight = CommandsInFlight()
        self.at = 0.0
        self.slow_until = 0.0

    @property
    def ready(self) -> bool:
        """True if parked commands may be ready to begin."""
        return bool(self._busy.freed)

    def begin_or_park(self, argv: list[bytes]) -> bool:
        """Begin or park a command; False if it must wait for those before it."""
        if self.in_flight.number:
            session = self._session
            if session.logging_in or session.flushing or session.executing:
                # The commands behind a login are made by whoever it logs in, and those behind a FLUSHDB or EXEC
                # come after its writes.
                return False
            command = find(self._context.commands, argv)
            if command is not None and (session.transaction is None or command.allowed_in_transaction):
                if command.behind_all:
                    # Replies that are due would be encoded for the new protocol, or mixed with its messages.
                    return False
                if self.pending:
                    access, keys = self._touched(command, argv)
                    if self._busy.conflicts(access, keys):
                        return self._park(command, argv, access, keys)
                    if self._busy.parked and not keys:
                        return False
        self.run(argv)
        return True

    def _park(self, command: Command[Context], argv: list[bytes], access: Access, keys: list[bytes]) -> bool:
        """Park a command that conflicts until it may begin; False if it cannot be parked: all behind it wait."""
        session = self._session
        if session.deferring or (
            not session.plain and session.tracking and self._context.tracking.selects(session.id)
        ):
            # A deferred reply has no place in `pending`. And CLIENT CACHING applies to the command that begins
            # next: (1) CLIENT CACHING YES; (2) GET a is parked; (3) GET b begins, and is tracked in place of GET a.
            return False
        self.at = self._now()
        place = PendingReply(None, command, command.name, argv, self.at - session.waited)
        place.muted = bool(session.mute) and self._muted()
        place.touched = access, keys
        self.in_flight.begin(argv)
        self.pending.append(place)
        self._busy.park(place, access, keys)
        return True

    def begin_ready(self) -> bool:
        """Begin one parked command; False if none may begin."""
        place = self._busy.next_ready()
        if place is None:
            return False
        self.run(place.argv, place)
        return True

    def run(self, argv: list[bytes], place: PendingReply | None = None) -> None:
        """Begin a command that conflicts with none before it. `place`: its pending reply if it was parked."""
        context, session = self._context, self._session
        self.at = started = self._now()
        session.commands += 1
        command = context.commands.get(argv[0].upper(), UNKNOWN)
        session.last_command = command.name
        waited = session.waited if place is None else started - max(place.started, self.slow_until)
        begun = repeated = False
        result: Any
        work: Work | None = None
        try:
            if not session.plain:
                self._check_modes(command)
            if (guard := session.guard) is not None:
                context.permissions.check_permission(
                    session, guard, find(context.commands, argv) or UNKNOWN, argv, started
                )
            if not command.accepts(len(argv)):
                raise wrong_arity(command.name)
            if waited > self._timeout:
                check_deadline(command, waited, self._timeout)
            keys = command.keys_in(argv)
            if keys:
                if self._limited and not session.is_forwarder:
                    context.requests.admit()
                if len(keys) > 1:
                    check_keys(keys)
                # Not WATCH and what is queued: a transaction has one owner, which gets the whole of it from EXEC.
                if (
                    not (session.transaction is not None or command.allowed_in_transaction)
                    and (forwarder := context.forwarder_for(session)) is not None
                ):
                    if forwarder.is_elsewhere(keys):
                        begun = True
                        future = forwarder.forward(session, argv, started)
                        if future is not None:
                            pending = place or PendingReply(None, command, command.name, argv, started)
                            session.last_command = (find(context.commands, argv) or command).name
                            pending.name, pending.started = session.last_command, started
                            pending.forwarded = True
                            self._wait(pending, future, parked=place is not None)
                            return
                    if len(keys) > 1 and not forwarder.splits(argv):
                        context.check_slots(session, keys)
                elif len(keys) > 1:
                    context.check_slots(session, keys)
            if not (session.plain or session.transaction is None or command.allowed_in_transaction):
                result = self._queue(command, argv, keys)
            else:
                begun = True
                if not session.plain and session.tracking:
                    work = context.tracking.begin(session.id, *context.touched(command, argv))
                try:
                    result = command.handler(context, session, argv)
                except TryAgain as error:
                    result, repeated = self._repeat(command, argv, error), True
            # Not `CoroutineType`, which the coroutines of compiled modules are not of.
            if type(result) is not bytes and isinstance(result, Coroutine | asyncio.Future):
                pending = place or PendingReply(None, command, session.last_command, argv, started)
                pending.name, pending.started, pending.work = session.last_command, started, work
                pending.repeated = repeated
                self._wait(pending, result, parked=place is not None)
                return
            reply = encoded(result, session.protocol)
        except Exception as error:
            line = self._command_metrics.error_reply(
                error, command, session.last_command, argv, begun=begun, encrypted=session.encrypted
            )
            reply = (line,)
            if work is not None:
                work.failed = True
            if session.transaction is not None and not begun:
                session.transaction.failed = True
        self._command_metrics.replied(command, session.last_command, argv, session, started)
        if place is not None:
            self.in_flight.end(argv)
            place.work = work
            self._fill(place, reply)
        else:
            muted = not session.plain and bool(session.mute) and self._muted()
            self.add_reply(() if muted and not _is_message(command, reply) else reply, work)

    # ---- batches of SETs

    def conflicts(self, access: Access, keys: list[bytes]) -> bool:
        """True if such a command must wait for one that is in flight or parked."""
        return self._busy.conflicts(access, keys)

    def begin_batch(
        self, pending: PendingReply, argvs: Sequence[list[bytes]], keys: list[bytes]
    ) -> CommandOrdering[PendingReply]:
        """Give commands that write `keys`, and have begun together, their place `pending`.

        Returns the ordering that has their keys, for `finish_batch`.
        """
        self.in_flight.begin_many(argvs)
        if self._session.deferring:
            pending.deferred = first = self._next_deferred + 1
            self._next_deferred += len(argvs)
            self._context.clients.deferred += len(argvs)
            self.add_reply((b"".join([b"-DEFERRED %d\r\n" % (first + number) for number in range(len(argvs))]),))
        else:
            pending.touched = "write", keys
            self.pending.append(pending)
            self._busy.add("write", keys)
        return self._busy

    def finish_batch(
        self,
        pending: PendingReply,
        argvs: Sequence[list[bytes]],
        ordering: CommandOrdering[PendingReply],
        lines: Sequence[bytes],
    ) -> None:
        """Send the replies to commands that began together, each in its place."""
        self.in_flight.end_many(argvs)
        self._session.last_at = self._now()
        self._command_metrics.replied_many(pending.command, argvs, self._session, pending.started)
        if pending.deferred:
            pushes = [
                b">3\r\n+deferred\r\n:%d\r\n%b" % (pending.deferred + number, line)
                for number, line in enumerate(lines)
            ]
            self._out.add_when_read((b"".join(pushes),))
        else:
            ordering.remove(*pending.touched)
            self._fill(pending, (b"".join(lines),))
        self._on_reply()

    def lost(self) -> None:
        """Drop the replies that are due, and the parked commands: the connection is gone.

        Commands in flight go on, since a write may have been done. Their callbacks hold on to the ordering in which
        they were added, not the new one, which does not have their keys.
        """
        for pending in self.pending:
            self._finish_work(pending.work)
        self.pending.clear()
        # A new ordering without parked commands, so that none of them can begin any more.
        self._busy = CommandOrdering()

    def add_reply(self, reply: Reply, work: Work | None = None) -> None:
        """Send a reply, behind all that are due."""
        if self.pending:
            pending = PendingReply(reply, UNKNOWN, "", [], 0.0)
            pending.work = work
            self.pending.append(pending)
        else:
            self._out.add(reply)
            self._finish_work(work)

    def _check_modes(self, command: Command[Context]) -> None:
        session = self._session
        if session.over_limit:
            check_member(session, command)
        check_subscriber(session, command.name, allowed=command.while_subscribed)

    def _queue(self, command: Command[Context], argv: list[bytes], keys: list[bytes]) -> Raw:
        """Add a command to the transaction. Raises CommandError or MilenaError if EXEC could not carry it out."""
        context, session = self._context, self._session
        transaction = session.transaction
        assert transaction is not None
        found = find(context.commands, argv)
        if found is None or (found.subcommands and len(argv) > 1):
            command.handler(context, session, argv)  # raises: there is no such command
            raise unknown_command(argv)
        if not found.accepts(len(argv)):
            raise wrong_arity(found.name)
        check_transaction(found, argv)
        if found.decide_in is not None:
            context.sandbox()
            argv = context.scripts.with_source(argv)  # which the owner of the keys may not know
            found = context.commands[argv[0].upper()]
        forwarder = context.forwarder_for(session)
        elsewhere = forwarder is not None and forwarder.is_elsewhere(keys)
        for key in keys:
            if elsewhere:
                context.check_key(key)
            else:
                context.place(key)
        if keys and not context.ownership.single:
            # One slot for all: compared with the first command that has keys.
            transaction.key = transaction.key or keys[0]
            context.check_slots(session, [transaction.key, *keys])
        transaction.queue(found, argv)
        return Raw(QUEUED)

    @property
    def held_bytes(self) -> int:
        """Return the bytes of the arguments of commands that are in flight, or queued for a transaction."""
        transaction = self._session.transaction
        return self.in_flight.bytes + (0 if transaction is None else transaction.bytes)

    def _finish_work(self, work: Work | None) -> None:
        """End the tracking of a command whose reply has been added to the output.

        Not before that: what `Tracking.end` notifies of must reach the client behind the reply, or the client would
        cache a value that was invalidated already.
        """
        if work is not None:
            self._context.tracking.end(work)

    def _muted(self) -> bool:
        """Count a command without a reply (CLIENT REPLY SKIP or OFF), and return True."""
        if self._session.mute > 0:
            self._session.mute -= 1
        return True

    def _repeat(self, command: Command[Context], argv: list[bytes], error: TryAgain) -> Coroutine[Any, Any, Any]:
        """Carry out a command once more when the slots change; it has had no effect, its slot is handed over."""
        context = self._context
        return context.slot_waiters.repeat(lambda: command.handler(context, self._session, argv), error)

    def _forward_moved(self, pending: PendingReply) -> asyncio.Future[Raw] | None:
        """Send a command whose slot has moved while it waited to the new owner; None if its client follows MOVED.

        It has had no effect here; one on several keys is repeated as a whole, as by a client that follows MOVED.
        """
        forwarder = self._context.forwarder_for(self._session)
        if forwarder is None or pending.forwarded:
            return None
        pending.forwarded = True
        return forwarder.forward(self._session, pending.argv, pending.started)

    def _touched(self, command: Command[Context], argv: list[bytes]) -> tuple[Access, list[bytes]]:
        """Return what the command does to its objects, for the ordering.

        Two writes of a key that is forwarded are not in flight together: (1) both are sent to the owner; (2) its
        slot is handed over, and the first one is sent again, to the new owner; (3) there it is done after the
        second. The slot may also move while a write of this node waits, so this is so for every key then.
        """
        access, keys = self._context.touched(command, argv)
        if access == "write" and self._context.forwarder_for(self._session) is not None:
            access = "modify"
        return access, keys

    def _wait(self, pending: PendingReply, result: Any, *, parked: bool) -> None:
        """Wait for `result` in a task or future of its own. `parked`: the command has its place already."""
        if parked:
            if pending.forwarded:
                pending.touched = self._touched(pending.command, pending.argv)
            self._busy.add(*pending.touched)
        else:
            self._take_place(pending)
        busy = self._busy  # as it is now: `lost` replaces it
        # A future, such as a SET has, is waited for as it is: a task around it costs a tenth of the SET.
        task = result if isinstance(result, asyncio.Future) else asyncio.get_running_loop().create_task(result)
        task.add_done_callback(lambda task: self._finished(pending, task, busy))

    def _take_place(self, pending: PendingReply) -> None:
        self.in_flight.begin(pending.argv)
        pending.muted = bool(self._session.mute) and self._muted()
        if self._session.deferring:
            self._next_deferred += 1
            pending.deferred = self._next_deferred
            self._context.clients.deferred += 1
            if not pending.muted:
                self.add_reply((b"-DEFERRED %d\r\n" % pending.deferred,))
        else:
            self.pending.append(pending)
            pending.touched = self._touched(pending.command, pending.argv)
            self._busy.add(*pending.touched)

    def _finished(
        self, pending: PendingReply, task: asyncio.Future[Any], busy: CommandOrdering[PendingReply]
    ) -> None:
        command = pending.command
        try:
            reply = encoded(task.result(), self._session.protocol)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, TryAgain) and not pending.repeated:
                # The slot was stopped while the command waited for something else.
                pending.repeated = True
                again = asyncio.get_running_loop().create_task(self._repeat(command, pending.argv, error))
                again.add_done_callback(lambda task: self._finished(pending, task, busy))
                return
            if isinstance(error, Moved) and (future := self._forward_moved(pending)) is not None:
                future.add_done_callback(lambda task: self._finished(pending, task, busy))
                return
            line = self._command_metrics.error_reply(
                error, command, pending.name, pending.argv, encrypted=self._session.encrypted
            )
            reply = (line,)
            if pending.work is not None:
                pending.work.failed = True
        self.in_flight.end(pending.argv)
        self._session.last_at = self._now()
        self._command_metrics.replied(command, pending.name, pending.argv, self._session, pending.started)
        if not pending.deferred:
            busy.remove(*pending.touched)
            self._fill(pending, reply)
        elif reply and not pending.muted:
            kind = Large if isinstance(reply, Large) else tuple
            self._out.add_when_read(kind((b">3\r\n+deferred\r\n:%d\r\n" % pending.deferred, *reply)))
        if pending.deferred:
            self._finish_work(pending.work)
        self._on_reply()

    def _fill(self, pending: PendingReply, reply: Reply) -> None:
        """Set the reply in its place, and send the replies at the front that are complete."""
        pending.reply = () if pending.muted else reply
        order = self.pending
        while order and order[0].reply is not None:
            replied = order.popleft()
            self._out.add(replied.reply or ())
            self._finish_work(replied.work)


def _is_message(command: Command[Context], reply: Reply) -> bool:
    """True for what SUBSCRIBE and its relatives send, which comes with CLIENT REPLY OFF too; not for an error."""
    return command.while_subscribed and command.group == "pubsub" and not reply[0].startswith(b"-")
