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
from milena_cache.servers.resp.dispatch.command_ordering import KeyOrder
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.subcommands import find
from milena_cache.servers.resp.output_buffer import Outbox
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.pending_replies import LARGE, Answer, InHand, Large, Waiting
from milena_cache.servers.resp.state.tracking import Work
from milena_cache.servers.resp.unknown_command import UNKNOWN
from milena_common.limits.token_bucket import over_limit
from milena_common.resp.encoding import Pieces, Raw, encode


class Running:
    """The commands that have begun. `answered` is called when the answer to one that waited has come."""

    def __init__(self, context: Context, session: Session, out: Outbox, answered: Callable[[], None]) -> None:
        self._context = context
        self._session = session
        self._out = out
        self._answered = answered
        self._now = context.clock.now
        self._books = context.books
        self._limited = context.config.rate_limit > 0
        self._timeout = context.timeout
        self._busy: KeyOrder[Waiting] = KeyOrder()
        self._next_deferred = 0
        self.order: deque[Waiting] = deque()
        self.in_hand = InHand()
        self.at = 0.0  # when the latest command began, in monotonic seconds
        self.slow_until = 0.0  # when the client last began to read again, in monotonic seconds

    @property
    def ready(self) -> bool:
        """Whether parked commands may be free to begin."""
        return self._busy.may_have_ready

    def begin(self, words: list[bytes]) -> bool:
        """Begin or park a command; False if it must wait for those before it."""
        if self.in_hand.number:
            command = find(self._context.table, words)
            if command is not None:
                if command.behind_all:
                    return False
                if self.order:
                    access, keys = self._context.touched(command, words)
                    if self._busy.conflicts(access, keys):
                        return self._park(command, words, access, keys)
                    if self._busy.parked and not keys:
                        return False
        self.run(words)
        return True

    def _park(self, command: Command[Context], words: list[bytes], access: Access, keys: list[bytes]) -> bool:
        """Keep a command that conflicts until it may begin; False if it cannot be kept."""
        session = self._session
        if session.deferring or (session.tracking and self._context.tracking.selects(session.id)):
            # What is deferred has no place among the answers; CLIENT CACHING is about the command that begins next.
            return False
        self.at = self._now()
        place = Waiting(None, command, command.name, words, self.at - session.waited)
        place.muted = bool(session.mute) and self._muted()
        place.touched = access, keys
        self.in_hand.begin(words)
        self.order.append(place)
        self._busy.park(place, access, keys)
        return True

    def begin_ready(self) -> bool:
        """Begin one parked command; False if none may begin."""
        place = self._busy.next_ready()
        if place is None:
            return False
        self.run(place.words, place)
        return True

    def run(self, words: list[bytes], place: Waiting | None = None) -> None:
        """Begin a command that has to wait for none before it; `place` is the one that it has if it was parked."""
        context, session = self._context, self._session
        self.at = started = self._now()
        session.commands += 1
        command = context.table.get(words[0].upper(), UNKNOWN)
        session.last_command = command.name
        waited = session.waited if place is None else started - max(place.started, self.slow_until)
        begun = False
        work: Work | None = None
        try:
            if session.in_transaction:
                check_transaction(session, command)
            if not command.accepts(len(words)):
                raise wrong_arity(command.name)
            if session.subscribed:
                check_subscriber(session, command)
            if waited > self._timeout:
                check_deadline(command, waited, self._timeout)
            keys = command.keys_in(words)
            if keys:
                if self._limited:
                    self._admit()
                if len(keys) > 1:
                    check_keys(keys)
                    context.check_slots(session, keys)
            begun = True
            if session.tracking:
                work = context.tracking.begin(session.id, *context.touched(command, words))
            result = command.handler(context, session, words)
            if isinstance(result, CoroutineType | asyncio.Future):
                waiting = place or Waiting(None, command, session.last_command, words, started)
                waiting.name, waiting.started, waiting.work = session.last_command, started, work
                self._wait(waiting, result, parked=place is not None)
                return
            answer = self._encode(result)
        except Exception as error:
            answer = (self._books.refusal(error, command, session.last_command, words, begun=begun),)
            if work is not None:
                work.failed = True
        self._books.answered(command, session.last_command, words, session, started)
        if place is not None:
            self.in_hand.end(words)
            place.work = work
            self._fill(place, answer)
        else:
            self._put(() if session.mute and self._muted() else answer, work)

    def lost(self) -> None:
        """Forget the answers that are due: the connection is gone."""
        for waiting in self.order:
            self._end_work(waiting.work)
        self.order.clear()
        self._busy = KeyOrder()  # what is parked never begins

    def _put(self, answer: Answer, work: Work | None = None) -> None:
        """Send an answer behind all that are due."""
        if self.order:
            waiting = Waiting(answer, UNKNOWN, "", [], 0.0)
            waiting.work = work
            self.order.append(waiting)
        else:
            self._out.add(answer)
            self._end_work(work)

    def _end_work(self, work: Work | None) -> None:
        """The answer is on its way to a client that tracks."""
        if work is not None:
            self._context.tracking.end(work)

    def _muted(self) -> bool:
        """Whether the client wants no answer to this command (CLIENT REPLY)."""
        if self._session.mute > 0:
            self._session.mute -= 1
        return True

    def _wait(self, waiting: Waiting, result: Any, *, parked: bool) -> None:
        """The answer comes later. A command that was `parked` has its place already."""
        if parked:
            self._busy.add(*waiting.touched)
        else:
            self._take_place(waiting)
        busy = self._busy
        asyncio.ensure_future(result).add_done_callback(lambda task: self._finished(waiting, task, busy))

    def _take_place(self, waiting: Waiting) -> None:
        self.in_hand.begin(waiting.words)
        waiting.muted = bool(self._session.mute) and self._muted()
        if self._session.deferring:
            self._next_deferred += 1
            waiting.deferred = self._next_deferred
            self._context.clients.deferred += 1
            if not waiting.muted:
                self._put((b"-DEFERRED %d\r\n" % waiting.deferred,))
        else:
            self.order.append(waiting)
            waiting.touched = self._context.touched(waiting.command, waiting.words)
            self._busy.add(*waiting.touched)

    def _finished(self, waiting: Waiting, task: asyncio.Future[Any], busy: KeyOrder[Waiting]) -> None:
        self.in_hand.end(waiting.words)
        self._session.last_at = self._now()
        command = waiting.command
        try:
            answer = self._encode(task.result())
        except (Exception, asyncio.CancelledError) as error:
            answer = (self._books.refusal(error, command, waiting.name, waiting.words),)
            if waiting.work is not None:
                waiting.work.failed = True
        self._books.answered(command, waiting.name, waiting.words, self._session, waiting.started)
        if not waiting.deferred:
            busy.remove(*waiting.touched)
            self._fill(waiting, answer)
        elif answer and not waiting.muted:
            kind = Large if isinstance(answer, Large) else tuple
            self._out.add_when_read(kind((b">3\r\n+deferred\r\n:%d\r\n" % waiting.deferred, *answer)))
        if waiting.deferred:
            self._end_work(waiting.work)
        self._answered()

    def _fill(self, waiting: Waiting, answer: Answer) -> None:
        """Keep an answer in its place, and send those that have their turn now."""
        waiting.answer = () if waiting.muted else answer
        order = self.order
        while order and order[0].answer is not None:
            answered = order.popleft()
            self._out.add(answered.answer or ())
            self._end_work(answered.work)

    def _encode(self, result: Any) -> Answer:
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
