"""Coordination. One connection of the Redis door: bytes in, commands, answers out in the order of their commands.

What is in memory is answered inside `data_received`, and all answers of one turn leave in one write. What has to
wait is kept by `Running`.

**Turns.** A connection works for a slice of time, see `loop_share`, and reads nothing from its socket while
commands wait to be begun. Whatever ends a wait (an answer, a client that reads on, room in the budget) only gives
it another turn: so many answers that come in one round of the loop do not make many turns.

**Bounds.** No command is begun while RESP_OUTPUT_BYTES of answers wait for the client to read, or HIGH_WATER of
them when the process has more bytes in flight than it should, or as much as `CommandsInFlight` allows waits for S3
or the journal. Large arguments are read when the budget has room for them (`in_flight`). So a connection holds
what one read brought, what it has asked for, and one answer. The door disconnects clients that do not read at all.

**Age.** Commands that have waited for longer than REQUEST_TIMEOUT_SECONDS since their bytes were read are refused,
but for time in which the client did not read its answers; GETs in an overload earlier, see `overload`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.in_flight import COPIES, SMALL, InFlight
from milena_cache.servers.resp.output_buffer import HIGH_WATER, OutputBuffer
from milena_cache.servers.resp.overwrites import Overwrites
from milena_cache.servers.resp.running import Running
from milena_cache.servers.resp.state.client_registry import Reason
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.loop_share import HEAVY_SECONDS, MAX_SLICE_SECONDS
from milena_cache.servers.resp.state.plain_gets import PlainGets
from milena_common.api.errors import Overloaded
from milena_common.network.addresses import Address
from milena_common.resp.encoding import error_line
from milena_common.resp.parser import CommandReader, ProtocolError

GET = b"GET"
SET = b"SET"
# What a command may take beside its values.
_OVERHEAD_BYTES = 2**20
# Arguments that are read before the clock is looked at: less than 1 ms of work.
_ARGUMENTS_AT_ONCE = 512
_FEW = 2  # hits that take too little time to be counted
# Pieces of answers that are put together in one write.
_MAX_PIECES = 256


class Connection(asyncio.Protocol):
    """One client's connection. `number` is its id."""

    def __init__(self, context: Context, plain_gets: PlainGets, number: int) -> None:
        max_value_bytes = context.config.max_value_bytes
        self._context = context
        self._plain_gets = plain_gets
        self._number = number
        self._reader = CommandReader(max_value_bytes + _OVERHEAD_BYTES, 2 * max_value_bytes + _OVERHEAD_BYTES)
        self._gets = context.calls["get"]
        self._get_counts = context.stats["get"]
        self._overwrites = Overwrites(context)
        self._limited = context.config.rate_limit > 0
        self._max_unsent = context.config.resp_output_bytes
        self._now = context.clock.now
        self._share = context.share
        self._overload = context.overload
        self._in_flight = InFlight(context.budget, self._schedule)
        self._commands: deque[list[bytes]] = deque()
        self._arrived = 0.0  # when the oldest bytes that wait came, less the time for which the client was slow
        self._reading = True
        self._queued = False  # in the queue for a turn
        self._broken: ProtocolError | None = None
        self._no_more = False  # nothing that comes is read any more
        self._working = False
        self.stalled_at = 0  # unsent bytes when the door last looked
        self.session: Session
        self._transport: asyncio.Transport
        self._out: OutputBuffer
        self._running: Running

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer, here = (transport.get_extra_info(name) or ("?", 0) for name in ("peername", "sockname"))
        now = self._now()
        self.session = Session(self._number, str(Address(*peer[:2])), str(Address(*here[:2])), now)
        self._out = OutputBuffer(self._transport, self.session)
        self._running = Running(self._context, self.session, self._out, self._on_reply)
        clients = self._context.clients
        if len(clients) >= self._context.config.resp_max_connections:
            clients.rejected += 1
            self._out.end()
            self._transport.write(error_line("ERR max number of clients reached"))
            self._transport.close()
            return
        clients.by_id[self._number] = self

    def connection_lost(self, error: Exception | None) -> None:
        self._out.end()
        self._commands.clear()
        self._running.lost()
        self._in_flight.end()
        self._context.clients.remove(self)
        self._overload.caught_up(self._number)
        self._context.tracking.stop(self._number)

    def pause_writing(self) -> None:
        self._out.writable = False
        self._context.clients.slow.add(self._number)
        self._schedule()  # to count what is not sent

    def resume_writing(self) -> None:
        if not self._out.lost:  # else the door watches until the last byte has been taken
            self._context.clients.slow.discard(self._number)
        self._out.resumed()
        self._arrived = self._running.slow_until = self._now()
        self._schedule()

    def eof_received(self) -> bool:
        # The client may have only closed its sending half, and still read what it asked for.
        self._no_more = True
        self._work()
        return True

    def data_received(self, data: bytes) -> None:
        now = self._now()
        session, reader, out = self.session, self._reader, self._out
        session.last_at = now
        session.received += len(data)
        if self._no_more or session.closing or out.lost:
            return
        if self._commands or reader.more:
            reader.feed(data)  # it was on its way when the reading was paused
            return
        self._arrived = now
        if self._share.exhausted:
            reader.feed(data)
            self._pause_until_scheduled()
            return
        if self._is_plain():
            keys = reader.gets(data)
            if keys is not None:
                if self._reply_gets(keys, now) and len(keys) <= _FEW:
                    return
                took = self._now() - now
                if self._commands:
                    self._work()
                elif took > HEAVY_SECONDS:
                    self._pause_until_scheduled()
                self._share.used(took)
                return
            argv = reader.plain_set(data)
            if argv is not None:
                done = self._overwrites.overwrite(session, argv[1], argv[2], now, out.parts)
                if not done:
                    self._running.run(argv)
                    self._count()
                out.flush()
                if not done:
                    self._share.used(self._now() - now)
                return
        reader.feed(data)
        self._work()
        self._share.used(self._now() - now)

    def run_slice(self) -> None:
        """Work for one slice; the loop's queue calls this."""
        self._queued = False
        if not self._out.lost:
            self._work()

    def _schedule(self) -> None:
        """Take a turn in the next round of the loop."""
        if not self._queued and not self._out.lost:
            self._queued = True
            self._share.enqueue(self)

    def _pause_until_scheduled(self) -> None:
        """Read nothing until the next turn, so that the loop gets to others."""
        self._read_on(False)
        self._schedule()

    def _read_on(self, reading: bool) -> None:
        if reading is not self._reading:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # ---- the short way

    def _is_plain(self) -> bool:
        """Whether nothing is due or said before that makes a command anything but the next one to be answered."""
        session, running = self.session, self._running
        return not (
            running.pending
            or self._limited
            or session.tracking
            or session.mute
            or (session.in_transaction or session.subscribed)
            or running.in_flight.full
            or (not self._out.writable and self._is_behind())
        )

    def _is_behind(self) -> bool:
        """Whether no command may begin because the client has to read first."""
        if self._out.writable:
            return False
        unsent = self._out.unsent
        self._in_flight.hold(COPIES * self._running.in_flight.bytes + unsent)
        return unsent >= self._max_unsent or (unsent >= HIGH_WATER and self._in_flight.over)

    def _reply_gets(self, keys: list[bytes], now: float) -> bool:
        """Answer GETs for a slice, as far as nothing has to wait, and leave the others; True if none are left."""
        until = now + MAX_SLICE_SECONDS
        plain_gets, parts, gets, counted = self._plain_gets, self._out.parts, self._gets, self._get_counts
        self.session.last_command = "get"
        while True:
            number = plain_gets.serve(keys, now, parts, HIGH_WATER)
            took = self._now() - now
            gets.requests += number
            gets.durations.observe_many(took, number)
            self.session.commands += number
            counted.calls += number
            counted.seconds += took
            self._out.flush()
            if number == len(keys):
                return True
            keys = keys[number:]
            if self._is_behind():
                break
            self._running.run([GET, keys[0]])
            self._out.flush()
            del keys[0]
            now = self._running.at
            if now >= until or not keys or not self._is_plain():
                break
        self._commands.extend([GET, key] for key in keys)
        return False

    # ---- the general way

    def _work(self) -> None:
        """Begin the commands that may begin now, for one slice."""
        if self._working:
            return  # an answer came while a command was begun: the loop below goes on with it
        self._working = True
        started = self._now()
        self.session.waited = started - self._arrived if self._commands or self._reader.more else 0.0
        try:
            goes_on = self._go_on(started + self._share.slice())
        finally:
            self._working = False
            self.session.waited = 0.0
        self._out.flush()
        if self._out.lost:
            return
        if goes_on and self._running.ready:
            self._pause_until_scheduled()  # what is parked has begun: also an end waits for it
            return
        more = bool(self._commands) or self._reader.more
        if self.session.closing or (self._no_more and not more) or (self._broken and not self._commands):
            self._close()
            return
        room = self._count()
        if goes_on or self._now() - started > HEAVY_SECONDS:
            self._pause_until_scheduled()
        else:
            self._overload.look(self._number, self._reader, self._transport, started)
            self._read_on(room and not more)

    def _go_on(self, until: float) -> bool:
        """Begin commands until `until`, in monotonic seconds; True if there are others that may begin."""
        commands, reader, running, session = self._commands, self._reader, self._running, self.session
        overwrite = self._overwrites.overwrite
        running.at = self._now()
        late = session.waited > self._context.timeout
        rejects = late or self._overload.rejects(self._number, running.at)
        while running.ready and not self._is_behind() and running.begin_ready():
            if running.at >= until:
                return running.ready or bool(commands) or reader.more
        if running.ready:
            return False  # the client has to read first
        while True:
            while commands:
                argv = commands[0]
                short = len(argv) == 3 and argv[0] == SET and not (late or session.closing) and self._is_plain()
                if short and (done := overwrite(session, argv[1], argv[2], running.at, self._out.parts)):
                    running.at = done
                elif running.in_flight.full or session.closing or self._is_behind() or not running.begin(argv):
                    return False
                if commands:  # the connection may have been lost meanwhile
                    commands.popleft()
                if len(self._out.parts) > _MAX_PIECES:
                    self._out.flush()
                if running.at >= until:
                    return bool(commands) or reader.more
            if not reader.more or self._broken or session.closing or self._is_behind():
                return False
            try:
                plain = self._is_plain()
                if plain and rejects and self._overload.reject(reader, session, self._out.parts):
                    continue
                keys = reader.read_gets() if plain else None
                if keys is not None:
                    self._reply_gets(keys, self._now())
                elif reader.more:
                    reader.read(commands.append, _ARGUMENTS_AT_ONCE)
            except ProtocolError as error:
                self._broken = error
                self._no_more = True
            if self._now() >= until:
                return bool(commands) or reader.more

    def _on_reply(self) -> None:
        """The answer to a command that waited has come."""
        if self._out.lost or self._working:
            return
        self._out.flush()
        if self._running.ready or self._commands or self._reader.more or self._in_flight.counted:
            self._schedule()
        elif self.session.closing or self._no_more:
            self._work()

    # ---- bytes in flight

    def _count(self) -> bool:
        """Count what this connection holds; False if nothing may be read until there is room for what arrives."""
        in_flight, begun, needed = self._in_flight, self._running.in_flight.bytes, self._reader.needed
        if not in_flight.counted and self._out.writable and begun < SMALL and needed < SMALL:
            return True
        in_flight.hold(COPIES * begun + self._out.unsent)
        try:
            return in_flight.arrive(COPIES * (needed + self._pending_bytes), self._now())
        except Overloaded:
            self._reject()
            return True

    @property
    def _pending_bytes(self) -> int:
        """Bytes of the commands that were read and have not begun, or are just beginning."""
        return sum(len(word) for argv in self._commands for word in argv)

    def no_room(self) -> None:
        """Refuse the command for whose bytes there was no room in time."""
        self._in_flight.reject()
        self._reject()

    def _reject(self) -> None:
        self._reader.reject(self._commands.append)
        self._in_flight.arrive(0, 0.0)
        self._schedule()

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
        return self._reader.held + self._pending_bytes

    @property
    def waits(self) -> bool:
        return bool(self._running.in_flight.number)

    @property
    def no_room_since(self) -> float:
        return self._in_flight.since

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

    def _close(self) -> None:
        """End the connection when everything before has been answered."""
        if self._running.in_flight.number or self._out.behind:
            self._read_on(False)
            return
        if self._broken:
            self._context.clients.disconnects["protocol"] += 1
            self._transport.write(error_line(f"ERR {self._broken}"))
        self._out.end()
        self.session.closing = True
        self._context.clients.slow.add(self._number)  # it is open as long as the client takes nothing
        self._transport.close()
