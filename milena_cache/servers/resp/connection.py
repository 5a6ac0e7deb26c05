"""Coordination. One RESP connection: bytes in, commands, replies out in the order of their commands.

Replies from memory are written inside `data_received`, all replies of one slice in one write. Commands that wait
for S3 or the journal are kept by `Running`.

**Slices.** A connection works for a slice of time (`loop_share`) and reads nothing from its socket while commands
wait to begin. Whatever ends a wait (a reply, a client that reads again, room in the budget) does not work at once
but enqueues the connection for one slice. Working at once would be wrong: (1) a pipeline of 1,000 misses waits for
S3; (2) their replies arrive in one round of the event loop; (3) each callback works for a whole slice, and this
connection holds the loop for 1,000 slices.

**Fast paths.** GETs that are hits, and SETs of class `memory`, skip `Running`, as many of them at once as come
together. That is allowed only while `_is_plain`: with a reply pending, for example, (1) GET a waits for S3, (2) GET
b is a hit, (3) the client would take b's reply for that of a. SETs of other classes that come together begin as one
batch (`set_batches`), in their place in the order.

**One write.** Replies collect in `OutputBuffer.parts`, and are written at the end of a slice, or when they are
many. Replies to commands that waited are written once in a round of the event loop (`OutputBuffer.write_soon`).

**Bounds.** No command begins while RESP_OUTPUT_BYTES of replies wait for the client to read, or HIGH_WATER of them
when the process exceeds its budget of bytes in flight, or while as many commands are in flight as
`CommandsInFlight` allows. Large arguments are read when the budget has room for them (`in_flight`). So a connection
holds the bytes of one read, of its commands in flight, and of one reply. The server disconnects clients that do not
read at all.

**Age.** A command is rejected if it has waited for more than REQUEST_TIMEOUT_SECONDS since its bytes were read, not
counting time in which the client did not read its replies; in an overload GETs are rejected earlier (`overload`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from milena_cache.membership.peers import NODE_NAME
from milena_cache.servers.resp.dispatch.admission import MAX_CLIENTS, MEMBER_CONNECTIONS
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.output_buffer import HIGH_WATER, MAX_PIECES, OutputBuffer
from milena_cache.servers.resp.running import Running
from milena_cache.servers.resp.set_batches import SetBatches
from milena_cache.servers.resp.state.client_registry import Reason
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.loop_share import HEAVY_SECONDS, MAX_SLICE_SECONDS
from milena_cache.servers.resp.state.permissions import PORT
from milena_cache.servers.resp.state.plain_gets import PlainGets
from milena_common.access.access import LOGIN_BYTES
from milena_common.api.errors import Overloaded
from milena_common.network.addresses import Address
from milena_common.resp.encoding import error_line
from milena_common.resp.in_flight import COPIES, SMALL, InFlight
from milena_common.resp.parser import CommandReader, ProtocolError
from milena_common.resp.plain_commands import MAX_SETS
from milena_common.tls.chain import peer_chain
from milena_common.tls.peer import of_transport

GET = b"GET"
SET = b"SET"
# Bytes that a command may have beyond its values.
_OVERHEAD_BYTES = 2**20
# Arguments that are parsed between two readings of the clock: less than 1 ms of work.
_ARGUMENTS_AT_ONCE = 512
# Reads of another node's connection up to this size do not wait behind clients when the loop's share is used up:
# they release slots, which no node serves meanwhile, or request promises. A node has few of them in flight.
_MEMBER_BYTES = 4096
_FEW = 2  # this many hits take too little time to be counted as loop time


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
        self._plain_sets = context.plain_sets
        self._keeps_in_memory = context.node.writes.keeps_in_memory  # else no SET is for `_plain_sets`
        # SETs that are tried together: fewer after one that had to be done alone, or each would cost many looks.
        self._set_run = MAX_SETS
        self._limited = context.config.rate_limit > 0
        self._max_unsent = context.config.resp_output_bytes
        self._now = context.clock.now
        self._fence = context.fence
        self._share = context.share
        self._overload = context.overload
        self._in_flight = InFlight(context.budget, self._schedule)
        self._commands: deque[list[bytes]] = deque()
        # When the oldest bytes that wait arrived, or the client last began to read again; monotonic seconds.
        self._arrived = 0.0
        self._reading = True
        self._queued = False  # True while enqueued for a slice
        self._broken: ProtocolError | None = None  # sent after the replies to the commands before it
        self._no_more = False  # True after EOF or a protocol error: bytes that arrive are dropped
        self._working = False
        self.stalled_at = 0  # unsent bytes at the server's last sweep
        self.session: Session
        self._transport: asyncio.Transport
        self._out: OutputBuffer
        self._running: Running
        self._set_batches: SetBatches

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer, here = (transport.get_extra_info(name) or ("?", 0) for name in ("peername", "sockname"))
        now = self._now()
        access, certificate = self._context.permissions.access, of_transport(transport.get_extra_info("peercert"))
        anonymous = access.anonymous if certificate is None else access.principal_of(certificate.names)
        self.session = Session(self._number, str(Address(*peer[:2])), str(Address(*here[:2])), now, anonymous)
        self.session.encrypted = transport.get_extra_info("sslcontext") is not None
        self.session.certificate = certificate
        self.session.chain = peer_chain(transport.get_extra_info("ssl_object")) if certificate is not None else None
        self._out = OutputBuffer(self._transport, self.session)
        self._running = Running(self._context, self.session, self._out, self._on_reply)
        self._set_batches = SetBatches(self._context, self.session, self._running)
        clients = self._context.clients
        over = len(clients) - self._context.config.resp_max_connections
        self.session.over_limit = over >= 0
        if over >= MEMBER_CONNECTIONS:
            self._out.discard()
            self._transport.write(error_line(MAX_CLIENTS))
            self._transport.close()
            return
        clients.by_id[self._number] = self

    def connection_lost(self, error: Exception | None) -> None:
        self._out.discard()
        self._commands.clear()
        self._running.lost()
        self._in_flight.release_all()
        if self.session.over_limit and not self.session.identified:
            self._context.clients.rejected += 1
        self._context.clients.remove(self)
        self._overload.caught_up(self._number)
        self._context.tracking.stop_tracking(self._number)
        self._context.channels.end_all(self.session)

    def pause_writing(self) -> None:
        self._out.writable = False
        self._context.clients.slow.add(self._number)
        self._schedule()  # the slice counts the unsent bytes

    def resume_writing(self) -> None:
        if not self._out.lost:  # after `_close` it stays in `slow`, so that the server watches it until all is sent
            self._context.clients.slow.discard(self._number)
        self._out.resumed()
        self._arrived = self._running.slow_until = self._now()
        self._schedule()

    def eof_received(self) -> bool:
        # A client that closed only its sending half still reads its replies: True keeps the transport open.
        self._no_more = True
        self._work()
        return True

    def data_received(self, data: bytes) -> None:
        now = self._now()
        if now >= self._fence.check_at:
            self._fence.may_serve(now)
        session, reader, out = self.session, self._reader, self._out
        session.last_at = now
        session.received += len(data)
        if self._no_more or session.closing or out.lost:
            return
        if not (session.plain or session.principal.authenticated) and self._exceeds_login(len(data)):
            return
        # Behind bytes that wait, no fast path may be used: its reply would overtake theirs.
        if self._commands or reader.more:
            # `pause_reading` does not recall bytes that the loop has read already. They go behind those that wait.
            reader.feed(data)
            return
        self._arrived = now
        if self._share.exhausted and not (session.name == NODE_NAME and len(data) <= _MEMBER_BYTES):
            reader.feed(data)
            self._pause_until_scheduled()
            return
        running = self._running
        # As `_is_plain`, without a call: this is the path of a hit.
        if session.plain and out.writable and not (running.pending or self._limited or running.in_flight.full):
            keys = reader.gets(data)
            if keys is not None:
                done = self._reply_gets(keys, now)
                if not self._commands:
                    out.write_out()
                if done and len(keys) <= _FEW:
                    return
                took = self._now() - now
                if self._commands:
                    self._work()
                elif took > HEAVY_SECONDS:
                    self._pause_until_scheduled()
                self._share.used(took)
                return
            sets = reader.sets(data) if self._keeps_in_memory else None
            if sets is not None:
                keys, values = sets
                self._reply_sets(keys, values, now)
                if self._commands or reader.more:
                    self._work()
                else:
                    out.write_out()
                    if len(keys) <= _FEW:
                        return
                    if self._now() - now > HEAVY_SECONDS:
                        self._pause_until_scheduled()
                self._share.used(self._now() - now)
                return
            argv = reader.one(data)
            if argv is not None:
                self._run_one(argv, now)
                return
        reader.feed(data)
        self._work()
        self._share.used(self._now() - now)

    def _exceeds_login(self, size: int) -> bool:
        """Disconnect, and return True, if a client that has not logged in holds too many bytes here."""
        if self._reader.held + self._pending_bytes + size <= LOGIN_BYTES:
            return False
        self._context.permissions.access.timed_out(self.session.addr, PORT)
        self.disconnect("login")
        return True

    def run_slice(self) -> None:
        """Work for one slice; called by `LoopShare`."""
        self._queued = False
        if not self._out.lost:
            self._work()

    def _schedule(self) -> None:
        """Enqueue the connection for one slice, unless it is enqueued already."""
        if not self._queued and not self._out.lost:
            self._queued = True
            self._share.enqueue(self)

    def _pause_until_scheduled(self) -> None:
        """Read nothing until the next slice, so that other connections run first."""
        self._read_on(False)
        self._schedule()

    def _read_on(self, reading: bool) -> None:
        if reading is not self._reading:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # ---- the fast path

    def _is_plain(self) -> bool:
        """True if a command may be replied to without `Running`.

        No reply is pending, which the reply would overtake; no rate limit applies; the session has no state that
        changes the reply or its effect (tracking, CLIENT REPLY, MULTI, SUBSCRIBE, over the limit); and the bounds
        allow it.
        """
        running = self._running
        return not (
            running.pending
            or self._limited
            or not self.session.plain
            or running.in_flight.full
            or (not self._out.writable and self._is_behind())
        )

    def _is_behind(self) -> bool:
        """True if no command may begin before the client has read more of its replies."""
        if self._out.writable:
            return False
        unsent = self._out.unsent
        if not self.session.principal.authenticated and unsent >= LOGIN_BYTES:
            return True
        self._in_flight.hold(COPIES * self._running.held_bytes + unsent)
        return unsent >= self._max_unsent or (unsent >= HIGH_WATER and self._in_flight.over)

    def _reply_gets(self, keys: list[bytes], now: float) -> bool:
        """Reply to GETs for a slice, until one has to wait; True if all are done. The rest goes into `_commands`.

        Runs of hits go through `PlainGets`. A key of another kind begins through `Running`, and the next run
        follows if that has replied at once.
        """
        until = now + MAX_SLICE_SECONDS
        plain_gets, parts, gets, counted = self._plain_gets, self._out.parts, self._gets, self._get_counts
        self.session.last_command = "get"
        reads = self._context.node.reads
        while True:
            before = reads.hit_bytes
            number = plain_gets.serve(keys, now, parts, HIGH_WATER)
            took = self._now() - now
            gets.requests += number
            gets.durations.observe_many(took, number)
            self.session.commands += number
            counted.calls += number
            counted.seconds += took
            self._out.count(reads.hit_bytes - before)
            if number == len(keys):
                return True
            keys = keys[number:]
            if self._is_behind():
                break
            self._running.run([GET, keys[0]])
            del keys[0]
            now = self._running.at
            if now >= until or not keys or not self._is_plain():
                break
        self._commands.extend([GET, key] for key in keys)
        return False

    def _reply_sets(self, keys: list[bytes], values: list[bytes], now: float) -> None:
        """Do SETs of class `memory`, until one is of another kind. The rest goes into `_commands`."""
        done = self._plain_sets.serve(self.session, keys, values, now, self._out.parts)
        if done < len(keys):
            self._commands.extend([SET, key, value] for key, value in zip(keys[done:], values[done:], strict=True))

    def _queue_sets(self, keys: list[bytes], values: list[bytes]) -> None:
        """Queue SETs for the transaction, until one is of another kind. The rest goes into `_commands`."""
        done = self._plain_sets.queue(self.session, keys, values, self._now(), self._out.parts)
        if done < len(keys):
            self._commands.extend([SET, key, value] for key, value in zip(keys[done:], values[done:], strict=True))

    def _may_queue(self) -> bool:
        """True if SETs without options may be queued without `Running`: `_is_plain`, but for the transaction.

        Nothing is in flight: (1) a SET waits, (2) its reply is due before the QUEUED of what is behind MULTI.
        """
        running = self._running
        return (
            self.session.queues
            and not (running.in_flight.number or self._limited or self.session.closing)
            and (self._out.writable or not self._is_behind())
        )

    def _run_one(self, argv: list[bytes], now: float) -> None:
        """Begin the only command of a read, in the state of `_is_plain`: what `_work` would do, in fewer steps."""
        running, commands = self._running, self._commands
        commands.append(argv)  # while it begins, `unread` has its bytes
        self._working = True  # `finish`, called by the command, must not close the connection before its reply
        try:
            if argv[0] == SET and self._begin_sets(now):
                begun = True
            elif running.in_flight.number:
                begun = running.begin_or_park(argv)
            else:
                running.run(argv)
                begun = True
        finally:
            self._working = False
        if begun and commands:  # the command may have closed the connection, which clears them
            commands.popleft()
        self._out.write_out()
        if commands or self.session.closing:
            self._work()
        elif running.in_flight.bytes >= SMALL or self._in_flight.counted:
            self._count()
        took = self._now() - now
        if took > HEAVY_SECONDS and not self._out.lost:
            self._pause_until_scheduled()
        self._share.used(took)

    # ---- the general path

    def _work(self) -> None:
        """Begin the commands that may begin now, for one slice."""
        if self._working:
            return  # called from within a command; the loop in `_go_on` continues with the changed state
        self._working = True
        started = self._now()
        if started >= self._fence.check_at:
            self._fence.may_serve(started)
        self.session.waited = started - self._arrived if self._commands or self._reader.more else 0.0
        try:
            goes_on = self._go_on(started + self._share.slice())
        finally:
            self._working = False
            self.session.waited = 0.0
        self._out.write_out()
        if self._out.lost:
            return
        if goes_on and self._running.ready:
            # Parked commands count as begun, and their replies are due even if the client has sent QUIT or EOF
            # behind them. So they go before the check for the end of the connection.
            self._pause_until_scheduled()
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
        """Begin commands until `until`, in monotonic seconds; True if more of them may begin now.

        Parked commands go first: they are older than those that were read after them.
        """
        commands, reader, running, session = self._commands, self._reader, self._running, self.session
        parts = self._out.parts
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
                if argv[0] == SET and not late and (done := self._begin_sets(running.at)):
                    running.at = self._now()
                    for _ in range(done):
                        commands.popleft()
                elif (
                    running.in_flight.full
                    or session.closing
                    or self._is_behind()
                    or not running.begin_or_park(argv)
                ):
                    return False
                elif commands:  # the command may have closed the connection, which clears them
                    commands.popleft()
                if len(parts) > MAX_PIECES:
                    self._out.write_out()
                if running.at >= until:
                    return bool(commands) or reader.more
            if not reader.more or self._broken or session.closing or self._is_behind():
                return False
            try:
                plain = self._is_plain()
                if plain and rejects and self._overload.reject(reader, session, parts):
                    continue
                keys = reader.read_gets() if plain else None
                sets = reader.read_sets() if plain and keys is None and self._keeps_in_memory and not late else None
                queued = reader.read_sets() if not (plain or late) and self._may_queue() else None
                if keys is not None:
                    self._reply_gets(keys, self._now())
                elif sets is not None:
                    self._reply_sets(*sets, self._now())
                elif queued is not None:
                    self._queue_sets(*queued)
                elif reader.more:
                    reader.read(commands.append, _ARGUMENTS_AT_ONCE)
            except ProtocolError as error:
                self._broken = error
                self._no_more = True
            if self._now() >= until:
                return bool(commands) or reader.more

    def _begin_sets(self, now: float) -> int:
        """Begin the SETs that are next in `_commands` together, if they are of a kind for that; return how many."""
        session, in_flight = self.session, self._running.in_flight
        if not session.plain:
            return self._serve_sets(now, queues=True) if self._may_queue() else 0
        if self._limited or session.closing or in_flight.full:
            return 0
        if session.logging_in or session.flushing or session.executing:
            return 0
        if not self._out.writable and self._is_behind():
            return 0
        if self._keeps_in_memory and not self._running.pending and (done := self._serve_sets(now)):
            return done
        return self._set_batches.begin_sets(self._commands)

    def _serve_sets(self, now: float, *, queues: bool = False) -> int:
        """Do the SETs that are next in `_commands` and are of class `memory`, or queue them; return how many."""
        keys: list[bytes] = []
        values: list[bytes] = []
        for argv in self._commands:
            if len(argv) != 3 or argv[0] != SET or len(keys) == self._set_run:
                break
            keys.append(argv[1])
            values.append(argv[2])
        if not keys:
            return 0
        sets, session, parts = self._plain_sets, self.session, self._out.parts
        if queues:
            done = sets.queue(session, keys, values, now, parts)
        else:
            done = sets.serve(session, keys, values, now, parts)
        self._set_run = min(MAX_SETS, 4 * done) or 1
        return done

    def _on_reply(self) -> None:
        """Go on after the reply to a command that waited: have it written, and enqueue what may begin now."""
        if self._out.lost or self._working:
            return
        if self._running.in_flight.number:
            self._out.write_soon()
        else:
            self._out.write_out()  # no other reply can join it: a lone write does not wait for another iteration
        if self._running.ready or self._commands or self._reader.more or self._in_flight.counted:
            self._schedule()
        elif self.session.closing or self._no_more:
            self._work()

    # ---- bytes in flight

    def _count(self) -> bool:
        """Count the bytes that this connection holds; False if nothing may be read until the budget has room."""
        in_flight, begun, needed = self._in_flight, self._running.held_bytes, self._reader.needed
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
        """Return the bytes of the commands that were read and have not begun, or are just beginning."""
        return sum(len(word) for argv in self._commands for word in argv)

    def no_room(self) -> None:
        """Reject the command for whose bytes there was no room in time."""
        self._in_flight.reject()
        self._reject()

    def _reject(self) -> None:
        self._reader.reject(self._commands.append)
        self._in_flight.arrive(0, 0.0)
        self._schedule()

    # ---- sending

    def push(self, message: bytes) -> None:
        """Send a message that is not a reply, between two replies."""
        if self._out.lost:
            return
        if self.unsent > self._context.config.resp_output_bytes:
            self.disconnect("output")
            return
        self._out.add_message(message)
        if not self._working:
            self._out.write_out()

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
        """Begin no more commands, and close when those in flight have their replies."""
        self.session.closing = True
        self._work()

    def disconnect(self, reason: Reason) -> None:
        """Close the connection now; unsent bytes are dropped."""
        if not self._out.lost:
            self._context.clients.disconnects[reason] += 1
            self._out.discard()
        self._transport.abort()

    def _close(self) -> None:
        """Close the connection once every reply before has been handed to the transport."""
        # With replies due, `_on_reply` or `resume_writing` leads here again.
        if self._running.in_flight.number or self._out.behind:
            self._read_on(False)
            return
        if self._broken:
            self._context.clients.disconnects["protocol"] += 1
            self._transport.write(error_line(f"ERR {self._broken}"))
        self._out.discard()
        self.session.closing = True
        # The transport stays open until the client has read all: the server's sweep disconnects it if it does not.
        self._context.clients.slow.add(self._number)
        self._transport.close()
