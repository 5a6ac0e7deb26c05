"""Coordination. The commands of one connection that have begun, and their answers in the order of the commands.

A command that has its answer at once takes nothing here. One that waits (for S3, for the journal) does not hold up
the commands behind it, only their answers. But commands take effect in their order: one that reads a key waits for
those before it that write the key, and the other way round. It is parked for that, and commands on other keys go
on; commands without keys wait, since what they change (the protocol, a transaction) may concern the parked ones.
Parked commands have a place among the answers and count as begun: 1024 at most, with those under way. The
connection begins them in its own turns.

On a connection that defers, nothing is held up: its commands are taken for concurrent ones. What changes the form
of answers waits until all before it are there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import CoroutineType
from typing import Any

from milena_cache.servers.resp.commands.connection.subscriptions import check_subscriber
from milena_cache.servers.resp.dispatch.admission import check_deadline, check_keys, check_transaction
from milena_cache.servers.resp.dispatch.command import Access, Command, wrong_arity
from milena_cache.servers.resp.dispatch.command_ordering import CommandOrdering
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.subcommands import find
from milena_cache.servers.resp.output_buffer import OutputBuffer
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.pending_replies import LARGE, CommandsInFlight, Large, PendingReply, Reply
from milena_cache.servers.resp.state.tracking import Work
from milena_cache.servers.resp.unknown_command import UNKNOWN
from milena_common.limits.token_bucket import over_limit
from milena_common.resp.encoding import Pieces, Raw, encode


class Running:
    """The commands that have begun. `replied` is called when the answer to one that waited has come."""

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
        self.at = 0.0  # when the latest command began, in monotonic seconds
        self.slow_until = 0.0  # when the client last began to read again, in monotonic seconds

    @property
    def ready(self) -> bool:
        """Whether parked commands may be free to begin."""
        return self._busy.may_have_ready

    def begin(self, argv: list[bytes]) -> bool:
        """Begin or park a command; False if it must wait for those before it."""
        if self.in_flight.number:
            command = find(self._context.commands, argv)
            if command is not None:
                if command.behind_all:
                    return False
                if self.pending:
                    access, keys = self._context.touched(command, argv)
                    if self._busy.conflicts(access, keys):
                        return self._park(command, argv, access, keys)
                    if self._busy.parked and not keys:
                        return False
        self.run(argv)
        return True

    def _park(self, command: Command[Context], argv: list[bytes], access: Access, keys: list[bytes]) -> bool:
        """Keep a command that conflicts until it may begin; False if it cannot be kept."""
        session = self._session
        if session.deferring or (session.tracking and self._context.tracking.selects(session.id)):
            # What is deferred has no place among the answers; CLIENT CACHING is about the command that begins next.
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
        """Begin a command that has to wait for none before it; `place` is the one that it has if it was parked."""
        context, session = self._context, self._session
        self.at = started = self._now()
        session.commands += 1
        command = context.commands.get(argv[0].upper(), UNKNOWN)
        session.last_command = command.name
        waited = session.waited if place is None else started - max(place.started, self.slow_until)
        begun = False
        work: Work | None = None
        try:
            if session.in_transaction:
                check_transaction(session, command)
            if not command.accepts(len(argv)):
                raise wrong_arity(command.name)
            if session.subscribed:
                check_subscriber(session, command)
            if waited > self._timeout:
                check_deadline(command, waited, self._timeout)
            keys = command.keys_in(argv)
            if keys:
                if self._limited:
                    self._admit()
                if len(keys) > 1:
                    check_keys(keys)
                    context.check_slots(session, keys)
            begun = True
            if session.tracking:
                work = context.tracking.begin(session.id, *context.touched(command, argv))
            result = command.handler(context, session, argv)
            if isinstance(result, CoroutineType | asyncio.Future):
                pending = place or PendingReply(None, command, session.last_command, argv, started)
                pending.name, pending.started, pending.work = session.last_command, started, work
                self._wait(pending, result, parked=place is not None)
                return
            reply = self._encode(result)
        except Exception as error:
            reply = (self._command_metrics.error_reply(error, command, session.last_command, argv, begun=begun),)
            if work is not None:
                work.failed = True
        self._command_metrics.replied(command, session.last_command, argv, session, started)
        if place is not None:
            self.in_flight.end(argv)
            place.work = work
            self._fill(place, reply)
        else:
            self._put(() if session.mute and self._muted() else reply, work)

    def lost(self) -> None:
        """Forget the answers that are due: the connection is gone."""
        for pending in self.pending:
            self._finish_work(pending.work)
        self.pending.clear()
        self._busy = CommandOrdering()  # what is parked never begins

    def _put(self, reply: Reply, work: Work | None = None) -> None:
        """Send an answer behind all that are due."""
        if self.pending:
            pending = PendingReply(reply, UNKNOWN, "", [], 0.0)
            pending.work = work
            self.pending.append(pending)
        else:
            self._out.add(reply)
            self._finish_work(work)

    def _finish_work(self, work: Work | None) -> None:
        """The answer is on its way to a client that tracks."""
        if work is not None:
            self._context.tracking.end(work)

    def _muted(self) -> bool:
        """Whether the client wants no answer to this command (CLIENT REPLY)."""
        if self._session.mute > 0:
            self._session.mute -= 1
        return True

    def _wait(self, pending: PendingReply, result: Any, *, parked: bool) -> None:
        """The answer comes later. A command that was `parked` has its place already."""
        if parked:
            self._busy.add(*pending.touched)
        else:
            self._take_place(pending)
        busy = self._busy
        asyncio.ensure_future(result).add_done_callback(lambda task: self._finished(pending, task, busy))

    def _take_place(self, pending: PendingReply) -> None:
        self.in_flight.begin(pending.argv)
        pending.muted = bool(self._session.mute) and self._muted()
        if self._session.deferring:
            self._next_deferred += 1
            pending.deferred = self._next_deferred
            self._context.clients.deferred += 1
            if not pending.muted:
                self._put((b"-DEFERRED %d\r\n" % pending.deferred,))
        else:
            self.pending.append(pending)
            pending.touched = self._context.touched(pending.command, pending.argv)
            self._busy.add(*pending.touched)

    def _finished(
        self, pending: PendingReply, task: asyncio.Future[Any], busy: CommandOrdering[PendingReply]
    ) -> None:
        self.in_flight.end(pending.argv)
        self._session.last_at = self._now()
        command = pending.command
        try:
            reply = self._encode(task.result())
        except (Exception, asyncio.CancelledError) as error:
            reply = (self._command_metrics.error_reply(error, command, pending.name, pending.argv),)
            if pending.work is not None:
                pending.work.failed = True
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
        """Keep an answer in its place, and send those that have their turn now."""
        pending.reply = () if pending.muted else reply
        order = self.pending
        while order and order[0].reply is not None:
            replied = order.popleft()
            self._out.add(replied.reply or ())
            self._finish_work(replied.work)

    def _encode(self, result: Any) -> Reply:
        if type(result) is bytes and len(result) >= LARGE:
            return Large((b"$%d\r\n" % len(result), result, b"\r\n"))
        if isinstance(result, Raw):
            return (result,)
        if isinstance(result, Pieces):
            return result
        return (encode(result, self._session.protocol),)

    def _admit(self) -> None:
        """Raises RateLimited."""
        wait = self._context.limiter.take(self._now())
        if wait:
            raise over_limit("the node's", self._context.config.rate_limit, wait)
