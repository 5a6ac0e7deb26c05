"""Coordination. One connection of the Redis door: bytes in, commands, answers out in the order of their commands.

What is in memory is answered inside `data_received`, and all answers of one read leave in one write. What has to
wait (for S3, for the journal) does not hold up the commands behind it, only their answers. But commands take
effect in their order: one that reads a key waits for those before it that write the key, and the other way round.

A connection that defers (CLIENT DEFER ON) is told at once which answers will come later, and gets them as pushes.
Then nothing is held up; its commands are taken for concurrent ones. What changes the form of answers (HELLO,
RESET, CLIENT DEFER) waits until all before it are there.

**Bounds.** No command is begun while more than HIGH_WATER bytes of answers wait for the client to read, or as much
as `InHand` allows waits for somebody else; and nothing is read from the socket while commands wait to be begun. So
what a connection holds is bounded by what one read brought, what it has asked for, and one answer. The door
disconnects clients that do not read at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import CoroutineType
from typing import Any, cast

from milena_cache.doors.redis.clients import Reason
from milena_cache.doors.redis.command import wrong_arity
from milena_cache.doors.redis.container import find
from milena_cache.doors.redis.context import Context
from milena_cache.doors.redis.hits import Hits
from milena_cache.doors.redis.key_order import KeyOrder
from milena_cache.doors.redis.outbox import HIGH_WATER, Outbox
from milena_cache.doors.redis.session import Session
from milena_cache.doors.redis.tracking import Work
from milena_cache.doors.redis.waiting import LARGE, UNKNOWN, Answer, InHand, Large, Waiting
from milena_common.addresses import Address
from milena_common.limiter import over_limit
from milena_common.resp import OK, Pieces, Raw, encode, error_line
from milena_common.resp_commands import CommandReader, ProtocolError

GET = b"GET"
# What a command may take beside its values.
_OVERHEAD_BYTES = 2**20


class Connection(asyncio.Protocol):
    """One client's connection. `number` is its id."""

    def __init__(self, context: Context, hits: Hits, number: int) -> None:
        most = context.config.max_value_bytes
        self._context = context
        self._hits = hits
        self._number = number
        self._reader = CommandReader(most + _OVERHEAD_BYTES, 2 * most + _OVERHEAD_BYTES)
        self._books = context.books
        self._gets = context.calls["get"]
        self._get_counts = context.stats["get"]
        self._puts = context.calls["put"]
        self._put_counts = context.stats["set"]
        self._ownership = context.ownership
        self._writes = context.node.writes
        self._limited = context.config.rate_limit > 0
        self._now = context.clock.now
        self._commands: deque[list[bytes]] = deque()
        self._order: deque[Waiting] = deque()
        self._busy = KeyOrder()
        self._in_hand = InHand()
        self._next_deferred = 0
        self._reading = True
        self._broken: ProtocolError | None = None
        self._no_more = False  # nothing that comes is read any more
        self._working = False
        self.stalled_at = 0  # unsent bytes when the door last looked
        self.session: Session
        self._transport: asyncio.Transport
        self._out: Outbox

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer, here = (transport.get_extra_info(name) or ("?", 0) for name in ("peername", "sockname"))
        now = self._now()
        self.session = Session(self._number, str(Address(*peer[:2])), str(Address(*here[:2])), now)
        self._out = Outbox(self._transport, self.session)
        clients = self._context.clients
        if len(clients) >= self._context.config.resp_max_connections:
            clients.refused += 1
            self._out.end()
            self._transport.write(error_line("ERR max number of clients reached"))
            self._transport.close()
            return
        clients.by_id[self._number] = self

    def connection_lost(self, error: Exception | None) -> None:
        self._out.end()
        self._commands.clear()
        for waiting in self._order:
            self._end_work(waiting.work)
        self._order.clear()
        self._context.clients.ended(self)
        self._context.tracking.stop(self._number)

    def pause_writing(self) -> None:
        self._out.writable = False
        self._context.clients.slow.add(self._number)

    def resume_writing(self) -> None:
        if not self._out.lost:  # else the door watches until the last byte has been taken
            self._context.clients.slow.discard(self._number)
        self._out.resumed()
        self._work()

    def eof_received(self) -> bool:
        # The client may have only closed its sending half, and still read what it asked for.
        self._no_more = True
        self._work()
        return True

    def data_received(self, data: bytes) -> None:
        now = self._now()
        session = self.session
        session.last_at = now
        session.received += len(data)
        if self._no_more or session.closing or self._out.lost:
            return
        if (
            not (self._order or self._commands or self._limited or session.tracking or session.mute)
            and self._out.writable
            and not self._in_hand.full
        ):
            keys = self._reader.gets(data)
            if keys is not None:
                self._answer_gets(keys, now)
                return
            words = self._reader.put(data)
            if words is not None:
                if not self._overwrite(words[1], words[2], now):
                    self._run(words)
                self._out.flush()
                return
        try:
            self._reader.feed(data, self._commands.append)
        except ProtocolError as error:
            self._broken = error
        if not self._context.clients.may_hold(self._number, self._reader.held):
            self._broken = ProtocolError("BUSY the node has too many bytes of commands in hand; try again later")
        self._no_more = self._broken is not None
        self._work()

    # ---- the short way

    def _answer_gets(self, keys: list[bytes], now: float) -> None:
        """Answer a read that has nothing but GETs."""
        hits, parts, gets, counted = self._hits, self._out.parts, self._gets, self._get_counts
        self.session.last_command = "get"
        while keys:
            number = hits.answer(keys, now, parts, HIGH_WATER)
            took = self._now() - now
            gets.requests += number
            gets.durations.observe_many(took, number)
            self.session.commands += number
            counted.calls += number
            counted.seconds += took
            self._out.flush()
            if number == len(keys):
                return
            keys = keys[number:]
            if not self._out.writable:
                break
            self._run([GET, keys[0]])
            self._out.flush()
            del keys[0]
            if self._order or not self._out.writable or self._in_hand.full:
                break
        self._commands.extend([GET, key] for key in keys)
        if self._commands:
            self._work()

    def _overwrite(self, key: bytes, value: bytes, now: float) -> bool:
        """Answer a SET that is acknowledged by putting its value in the place of another; False for all others."""
        owned_since = self._ownership.mine_since(key)
        if owned_since < 0 or not self._writes.overwrite(key, value, owned_since):
            return False
        session, puts, counted = self.session, self._puts, self._put_counts
        session.last_command = "set"
        session.commands += 1
        self._out.parts.append(OK)
        took = self._now() - now
        puts.requests += 1
        puts.durations.observe(took)
        counted.calls += 1
        counted.seconds += took
        return True

    # ---- the general way

    def _work(self) -> None:
        """Begin the commands that may begin now."""
        if self._working:
            return  # an answer came while a command was begun: the loop below goes on with it
        self._working = True
        try:
            commands = self._commands
            while commands and self._out.writable and not self._in_hand.full and not self.session.closing:
                if not self._begin(commands[0]):
                    break
                if commands:  # the connection may have been lost meanwhile
                    commands.popleft()
                if len(self._out.parts) > 64:
                    self._out.flush()
        finally:
            self._working = False
        self._out.flush()
        if self._out.lost:
            return
        if self.session.closing or (self._no_more and not commands):
            self._end()
        elif bool(commands) is self._reading:
            self._reading = not commands
            if self._reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _begin(self, words: list[bytes]) -> bool:
        """Begin a command; False if it must wait for those before it."""
        if self._in_hand.number:
            command = find(self._context.table, words)
            if command is not None:
                if command.behind_all:
                    return False
                if self._order and self._busy.conflicts(*self._context.touched(command, words)):
                    return False
        self._run(words)
        return True

    def _run(self, words: list[bytes]) -> None:
        context, session = self._context, self.session
        started = self._now()
        session.commands += 1
        command = context.table.get(words[0].upper(), UNKNOWN)
        session.last_command = command.name
        begun = False
        work: Work | None = None
        try:
            if not command.accepts(len(words)):
                raise wrong_arity(command.name)
            keys = command.keys_in(words)
            if keys:
                if self._limited:
                    self._admit()
                context.check_slots(session, keys)
            begun = True
            if session.tracking:
                work = context.tracking.begin(session.id, *context.touched(command, words))
            result = command.handler(context, session, words)
            if isinstance(result, CoroutineType | asyncio.Future):
                waiting = Waiting(None, command, session.last_command, words, started)
                waiting.work = work
                self._wait(waiting, result)
                return
            answer = self._encode(result)
        except Exception as error:
            answer = (self._books.refusal(error, command, session.last_command, words, begun=begun),)
            if work is not None:
                work.failed = True
        self._books.answered(command, session.last_command, words, session, started)
        self._put(() if session.mute and self._muted() else answer, work)

    def _put(self, answer: Answer, work: Work | None = None) -> None:
        """An answer behind all that are due."""
        if self._order:
            waiting = Waiting(answer, UNKNOWN, "", [], 0.0)
            waiting.work = work
            self._order.append(waiting)
        else:
            self._out.add(answer)
            self._end_work(work)

    def _end_work(self, work: Work | None) -> None:
        """The answer is on its way to a client that tracks."""
        if work is not None:
            self._context.tracking.end(work)

    def _muted(self) -> bool:
        """Whether the client wants no answer to this command (CLIENT REPLY)."""
        if self.session.mute > 0:
            self.session.mute -= 1
        return True

    def _wait(self, waiting: Waiting, result: Any) -> None:
        """The answer comes later."""
        self._in_hand.begin(waiting.words)
        waiting.muted = bool(self.session.mute) and self._muted()
        if self.session.deferring:
            self._next_deferred += 1
            waiting.deferred = self._next_deferred
            self._context.clients.deferred += 1
            if not waiting.muted:
                self._put((b"-DEFERRED %d\r\n" % waiting.deferred,))
        else:
            self._order.append(waiting)
            waiting.touched = self._context.touched(waiting.command, waiting.words)
            self._busy.add(*waiting.touched)
        asyncio.ensure_future(result).add_done_callback(lambda task: self._finished(waiting, task))

    def _finished(self, waiting: Waiting, task: asyncio.Future[Any]) -> None:
        self._in_hand.end(waiting.words)
        self.session.last_at = self._now()
        command = waiting.command
        try:
            answer = self._encode(task.result())
        except (Exception, asyncio.CancelledError) as error:
            answer = (self._books.refusal(error, command, waiting.name, waiting.words),)
            if waiting.work is not None:
                waiting.work.failed = True
        self._books.answered(command, waiting.name, waiting.words, self.session, waiting.started)
        if waiting.muted:
            answer = ()
        if not waiting.deferred:
            self._busy.remove(*waiting.touched)
            waiting.answer = answer
            order = self._order
            while order and order[0].answer is not None:
                answered = order.popleft()
                self._out.add(answered.answer or ())
                self._end_work(answered.work)
        elif answer:
            kind = Large if isinstance(answer, Large) else tuple
            self._out.add_when_read(kind((b">3\r\n+deferred\r\n:%d\r\n" % waiting.deferred, *answer)))
        if waiting.deferred:
            self._end_work(waiting.work)
        if not self._out.lost and not self._working:
            self._work()

    def _encode(self, result: Any) -> Answer:
        if type(result) is bytes and len(result) >= LARGE:
            return Large((b"$%d\r\n" % len(result), result, b"\r\n"))
        if isinstance(result, Raw):
            return (result,)
        if isinstance(result, Pieces):
            return result
        return (encode(result, self.session.protocol),)

    def _admit(self) -> None:
        """Raises RateLimited."""
        wait = self._context.limiter.take(self._now())
        if wait:
            raise over_limit("the node's", self._context.config.rate_limit, wait)

    # ---- sending

    def push(self, message: bytes) -> None:
        """Send a message that is no answer, between two answers."""
        if self._out.lost:
            return
        if self.unsent > self._context.config.resp_output_bytes:
            self.disconnect("output")
            return
        self._out.add_message(message)
        if not self._working:
            self._out.flush()

    @property
    def unsent(self) -> int:
        return self._out.unsent

    @property
    def unread(self) -> int:
        return self._reader.held

    @property
    def waits(self) -> bool:
        return bool(self._in_hand.number)

    def finish(self) -> None:
        """Begin nothing any more, and end when what was begun has been answered."""
        self.session.closing = True
        self._work()

    def disconnect(self, reason: Reason) -> None:
        """End the connection now, whatever has not been sent."""
        if not self._out.lost:
            self._context.clients.disconnects[reason] += 1
            self._out.end()
        self._transport.abort()

    def _end(self) -> None:
        """End the connection when everything before has been answered."""
        if self._in_hand.number or self._out.behind:
            self._transport.pause_reading()
            return
        if self._broken:
            text = str(self._broken)
            self._context.clients.disconnects["protocol"] += 1
            self._transport.write(error_line(text if text.startswith("BUSY") else f"ERR {text}"))
        self._out.end()
        self._context.clients.slow.add(self._number)  # it is open as long as the client takes nothing
        self._transport.close()
