"""Coordination. One client of the Redis port: bytes in, commands to the owners of their keys, replies in order.

All commands of one read are sent together, one write to each owner; the replies that arrive in one iteration of the
event loop are one write to the client.

**Order.** Commands on different keys are in flight together, and only their replies wait for each other. A command
that conflicts with one in flight on the same key is parked until that is done (`command_ordering`). On a connection
that defers (CLIENT DEFER) commands are concurrent by the client's choice.

**Bounds.** No command begins while MAX_UNSENT bytes of replies wait for the client to read, nor while MAX_IN_FLIGHT
keys or MAX_IN_FLIGHT_BYTES of arguments are in flight; and nothing is read while commands wait to begin. Large
arguments are read when the process's budget has room for them (`in_flight`), and replies that wait are counted in
it, up to MAX_REPLY_BYTES, as are messages; with more of them the client is disconnected. A connection begins at
most TURN_COMMANDS before it lets others run. The server ends connections that do not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from types import CoroutineType
from typing import Any, Final, Protocol, cast

from milena_common.access.access import LOGIN_BYTES
from milena_common.api.errors import InternalError, InvalidRequest, MilenaError, Overloaded
from milena_common.api.keys import check_value_size
from milena_common.forwarding.numbered_keys import check_number_of_keys
from milena_common.forwarding.pending import NO_ROOM, Gathered, Part, Pending, Request
from milena_common.forwarding.routing import (
    GET,
    Forwarded,
    canonical,
    check_one_slot,
    find,
    in_protocol,
    split,
)
from milena_common.forwarding.upstreams import Upstreams
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.token_bucket import TokenBucket, over_limit
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.pubsub.replies import check_subscriber
from milena_common.resp.command_ordering import CommandOrdering
from milena_common.resp.encoding import RESP2, bulk, command, encode, error_line
from milena_common.resp.errors import to_resp
from milena_common.resp.in_flight import COPIES, SMALL, InFlight
from milena_common.resp.parser import CommandReader, NoRoom, ProtocolError, TooLong
from milena_common.resp.redis_replies import CommandError, unknown_command, wrong_arity
from milena_common.rpc.status import to_grpc
from milena_common.runtime.clock import Clock
from milena_common.tls.chain import peer_chain
from milena_common.tls.peer import of_transport
from milena_router.redis.api_calls import RETRY_AFTER_MS, ApiCalls
from milena_router.redis.context import Context, Local
from milena_router.redis.local_commands import find_local
from milena_router.redis.permissions import PORT, Permissions
from milena_router.redis.session import Session
from milena_router.redis.transactions import queue

# Bytes that a command may have beyond its values.
OVERHEAD_BYTES: Final = 2**20
MAX_IN_FLIGHT: Final = 1024
MAX_IN_FLIGHT_BYTES: Final = 32 * 2**20
# Unsent bytes from which on a client is slow.
MAX_UNSENT: Final = 2**20
# Bytes of the reply to one command on many keys.
MAX_REPLY_BYTES: Final = 64 * 2**20
# Up to this, unsent bytes are not counted.
_UNCOUNTED: Final = 64 * 1024
TURN_COMMANDS: Final = 512
_CALL: Final = b"MILENA.CALL"
_CALL_ARITY: Final = (4, 5, 6)
_ERROR: Final = ord("-")
MAX_CLIENTS: Final = error_line("ERR max number of clients reached")

log = logging.getLogger(__name__)


class Server(Protocol):
    """The part of the server that its connections use.

    limiter: the router's rate limit, shared with gRPC
    default_bucket: the nodes' S3_BUCKET
    """

    context: Context
    permissions: Permissions
    api: ApiCalls
    upstreams: Upstreams
    budget: ByteBudget
    limiter: TokenBucket
    clock: Clock
    timeout: float
    max_value_bytes: int

    @property
    def default_bucket(self) -> str: ...

    def flush_soon(self, connection: Connection) -> None:
        """Have `connection.write_replies` called at the end of this iteration of the event loop."""

    def opened(self, connection: Connection) -> bool:
        """Add a new connection; False if there are too many."""

    def closed(self, connection: Connection) -> None:
        """Remove a connection that has ended."""

    def too_slow(self, connection: Connection) -> None:
        """Disconnect a subscriber that does not read its messages."""


class Connection(asyncio.Protocol):
    """One client's connection. `number` is its id."""

    def __init__(self, server: Server, number: int) -> None:
        self._server = server
        self._number = number
        self._upstreams = server.upstreams
        self._send = server.upstreams.send_request
        self._now = server.clock.now
        self._limited = server.limiter.rate > 0
        self._calls: CallCounts = server.context.calls
        maximum = server.max_value_bytes
        self._reader = CommandReader(maximum + OVERHEAD_BYTES, 2 * maximum + OVERHEAD_BYTES)
        self._commands: deque[list[bytes]] = deque()
        self._order: deque[Pending] = deque()  # replies that are due, in the order of their commands
        self._ordering: CommandOrdering[Pending] = CommandOrdering()
        self._in_flight = InFlight(server.budget, self._schedule)
        self._number_in_flight = 0
        self._bytes_in_flight = 0
        self._waiting_bytes = 0  # of replies in `_order`
        self._next_deferred = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = 0.0  # when the oldest bytes that wait arrived, monotonic seconds
        self._writable = True
        self._reading = True
        self._scheduled = False
        self._working = False
        self._touched = False
        self._no_more = False  # True after EOF or a protocol error: bytes that arrive are dropped
        self._broken: ProtocolError | None = None  # sent after the replies to the commands before it
        self._lost = False
        self.stalled_at = 0  # unsent bytes at the server's last sweep
        self.session: Session
        self._transport: asyncio.Transport

    # ---- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_UNCOUNTED)
        peer, here = (transport.get_extra_info(name) or ("?", 0) for name in ("peername", "sockname"))
        access, certificate = self._server.permissions.access, of_transport(transport.get_extra_info("peercert"))
        anonymous = access.anonymous if certificate is None else access.principal_of(certificate.names)
        self.session = Session(
            self._number, str(Address(*peer[:2])), str(Address(*here[:2])), self._now(), anonymous
        )
        self.session.certificate = certificate
        if certificate is not None:
            self.session.chain = peer_chain(transport.get_extra_info("ssl_object"))
        if not self._server.opened(self):
            self._lost = True
            self._transport.write(MAX_CLIENTS)
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._commands.clear()
        self._order.clear()
        self._out.clear()
        # Commands in flight go on, since a write may have been done; parked ones never begin.
        self._ordering = CommandOrdering()
        self._in_flight.release_all()
        self._server.closed(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._arrived = self._now()
        self._schedule()

    def eof_received(self) -> bool:
        # A client that closed only its sending half still reads its replies: True keeps the transport open.
        self._no_more = True
        self._work()
        return True

    def data_received(self, data: bytes) -> None:
        now = self._now()
        session, reader = self.session, self._reader
        session.last_at = now
        session.received += len(data)
        if self._no_more or session.closing or self._lost:
            return
        if not session.principal.authenticated and self._exceeds_login(len(data)):
            return
        if self._commands or reader.more or self._scheduled:
            reader.feed(data)  # behind what waits
            return
        self._arrived = now
        if self._is_plain():
            keys = reader.gets(data)
            if keys is not None:
                self._begin_gets(keys, now)
                return
        reader.feed(data)
        self._work()

    def _exceeds_login(self, size: int) -> bool:
        """Disconnect, and return True, if a client that has not logged in holds too many bytes here."""
        if self._reader.held + self._pending_bytes + size <= LOGIN_BYTES:
            return False
        self._server.permissions.access.timed_out(self.session.addr, PORT)
        self.disconnect()
        return True

    def _schedule(self) -> None:
        """Work in the next iteration of the event loop, so that other connections run first."""
        if not self._scheduled and not self._lost:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if not self._lost:
            self._work()

    def _read_on(self, reading: bool) -> None:
        if reading is not self._reading and not self._lost:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # ---- the fast path

    def _is_plain(self) -> bool:
        """True if GETs may be sent without being looked at one by one.

        No limit applies to them and no rule, they get a reply, none can conflict with a write, and the bounds allow
        it.
        """
        session, ordering = self.session, self._ordering
        return (
            session.plain
            and not self._limited
            and self._number_in_flight < MAX_IN_FLIGHT
            and (session.deferring or not (ordering.parked or ordering.has("modify")))
            and not (session.logging_in or session.executing)
            and not self._is_behind()
        )

    def _begin_gets(self, keys: list[bytes], now: float) -> None:
        """Send GETs to the owners of `keys`; those beyond the bounds go into `_commands`."""
        room = MAX_IN_FLIGHT - self._number_in_flight
        if len(keys) > room:
            self._commands.extend([b"GET", key] for key in keys[room:])
            del keys[room:]
        session = self.session
        session.commands += len(keys)
        session.last_command = "get"
        order, send, ordering = self._order, self._send, self._ordering
        ordered = not session.deferring
        total = 0
        for key in keys:
            size = len(key)
            total += size
            data = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (size, key)
            if key.startswith(b"s3://"):
                request = Request(self, GET, canonical(key, self._server.default_bucket), data, now, size)
            else:
                request = Request(self, GET, key, data, now, size)
            if ordered:
                request.access = "read"
                request.keys = [request.key]
                ordering.add("read", request.keys)
            order.append(request)
            send(request)
        self._number_in_flight += len(keys)
        self._bytes_in_flight += total
        if self._commands:
            self._read_on(False)

    # ---- the general path

    @property
    def _full(self) -> bool:
        return self._number_in_flight >= MAX_IN_FLIGHT or self._bytes_in_flight >= MAX_IN_FLIGHT_BYTES

    def _is_behind(self) -> bool:
        """True if no command may begin before the client has read more of its replies."""
        unsent = self.unsent
        if unsent < _UNCOUNTED:
            return False
        if not self.session.principal.authenticated and unsent >= LOGIN_BYTES:
            return True
        return unsent >= MAX_UNSENT

    def _work(self) -> None:
        """Begin the commands that may begin now, for one turn."""
        if self._working:
            return
        self._working = True
        try:
            goes_on = self._go_on()
        finally:
            self._working = False
        if self._lost:
            return
        more = bool(self._commands) or self._reader.more
        if self.session.closing or (self._no_more and not more) or (self._broken and not self._commands):
            self._close()
            return
        room = self._count()
        if goes_on:
            self._read_on(False)
            self._schedule()
        else:
            self._read_on(room and not more)

    def _go_on(self) -> bool:
        """Begin commands until the turn is over; True if more of them may begin now."""
        commands, reader, session = self._commands, self._reader, self.session
        for _ in range(TURN_COMMANDS):
            if self._ordering.freed and not self._is_behind():
                parked = self._ordering.next_ready()
                if parked is not None:
                    self._begin_parked(parked)
                    continue
            if commands:
                waits = session.logging_in or session.executing
                if waits or session.closing or self._full or self._is_behind():
                    return False
                if not self._begin(commands[0]):
                    return False
                if commands:  # the command may have ended the connection, which clears them
                    commands.popleft()
                continue
            if not reader.more or self._broken or session.closing or self._is_behind():
                return False
            try:
                keys = reader.read_gets() if self._is_plain() else None
                if keys is not None:
                    self._begin_gets(keys, self._now())
                elif reader.more:
                    reader.read(commands.append, TURN_COMMANDS)
            except ProtocolError as error:
                self._broken = error
                self._no_more = True
        return True

    def _begin(self, argv: list[bytes]) -> bool:
        """Begin or park a command; False if it must wait for those before it."""
        forwarded = find(argv)
        local = None if forwarded is not None else find_local(argv)
        session = self.session
        # Replies that are due would be encoded for the new protocol; and the modes of parked commands would change.
        if local is not None and self._number_in_flight:
            if local.behind_all or self._ordering.parked:
                return False
            if local.behind_writes and self._ordering.has("modify"):
                return False
        now = self._now()
        session.commands += 1
        muted = self._muted() and not (local is not None and local.messages)
        try:
            self._check(argv, forwarded, local, now)
            if session.transaction is not None and not (local is not None and local.in_transaction):
                reply = queue(self._server.context, session, self._known(argv, forwarded or local), argv)
                self._put(b"" if muted else reply)
                return True
            if forwarded is not None:
                self._begin_forwarded(forwarded, argv, now, muted)
                return True
            if argv[0].upper() == _CALL and local is None:
                self._begin_later(self._call(argv), self._server.api.operation(argv), argv, now, muted)
                return True
            if local is None:
                raise self._unknown(argv)
            result = local.handler(self._server.context, session, argv)
            if isinstance(result, CoroutineType):
                self._begin_later(self._encoded(result), "other", argv, now, muted)
                return True
            reply = encode(result, session.protocol)
        except Exception as error:
            if session.transaction is not None and not (local is not None and local.in_transaction):
                session.transaction.failed = True
            reply = self._error(error, forwarded.operation if forwarded is not None else "other")
        self._observe(forwarded.operation if forwarded is not None else "other", now)
        self._put(b"" if muted else reply)
        return True

    def _muted(self) -> bool:
        """True if the command that begins gets no reply (CLIENT REPLY)."""
        session = self.session
        if session.mute > 0:
            session.mute -= 1
            return True
        return session.mute < 0

    def _check(self, argv: list[bytes], forwarded: Forwarded | None, local: Local | None, now: float) -> None:
        """Raise the error of a command that must not begin."""
        session = self.session
        known = forwarded or local
        name = known.name if known is not None else ("milena.call" if argv[0].upper() == _CALL else "")
        session.last_command = name
        if session.subscribed and known is not None:
            check_subscriber(session, name, allowed=local is not None and local.while_subscribed)
        if session.guard is not None:
            self._server.permissions.check_command(session, session.guard, name, forwarded, argv)
        if known is not None and not known.accepts(len(argv)):
            raise wrong_arity(name)
        if name == "milena.call" and len(argv) not in _CALL_ARITY:
            raise wrong_arity(name)
        if forwarded is None:
            return
        waited = now - self._arrived
        if waited > self._server.timeout:
            raise self._too_late(waited)
        if self._limited and (wait := self._server.limiter.take_tokens(now)):
            raise over_limit("the router's", self._server.limiter.rate, wait)

    def _known(self, argv: list[bytes], known: Forwarded | Local | None) -> Forwarded | Local:
        """Return what can be queued as `argv`. Raises the error for a value that is too large, or no command."""
        if known is None:
            raise self._unknown(argv)
        if isinstance(known, Forwarded):
            self._check_values(argv)
        return known

    def _check_values(self, argv: list[bytes]) -> None:
        """Raise InvalidRequest for a value that is too large."""
        for value in argv[2:]:
            if len(value) > self._server.max_value_bytes:
                check_value_size(len(value), self._server.max_value_bytes)

    def _too_late(self, waited: float) -> Overloaded:
        return Overloaded(
            f"retry-after-ms={RETRY_AFTER_MS} the command waited for {waited:.1f} s, REQUEST_TIMEOUT_SECONDS is "
            f"{self._server.timeout:g}; nothing was done"
        )

    def _unknown(self, argv: list[bytes]) -> Exception:
        """Return the error for a command that does not exist, or whose arguments were not read."""
        if isinstance(argv[0], TooLong):
            try:
                check_value_size(argv[0].size, self._server.max_value_bytes)
            except InvalidRequest as error:
                return error
        if isinstance(argv[0], NoRoom):
            budget = self._server.budget
            return Overloaded(
                f"retry-after-ms={RETRY_AFTER_MS} no room for the command within {self._server.timeout:g} s: "
                f"{budget.used} bytes are in flight, and the limit is {budget.limit} (MAX_IN_FLIGHT_BYTES); "
                "nothing was done"
            )
        return unknown_command(argv)

    def _begin_forwarded(self, forwarded: Forwarded, argv: list[bytes], now: float, muted: bool) -> None:
        """Send a command to the owners of its keys, or park it. Raises CommandError or InvalidRequest."""
        self._check_values(argv)
        if forwarded.is_script:
            check_number_of_keys(argv)
            argv = self._server.context.scripts.as_eval(argv)
        default = self._server.default_bucket
        parts = split(forwarded, argv)
        size = sum(map(len, argv))
        pending: Pending
        if forwarded.merge == "only":
            keys = [canonical(key, default) for key in forwarded.keys_in(argv)]
            if len(keys) > 1:
                check_one_slot(keys)
            # A script without keys runs at any node.
            pending = Request(self, forwarded, keys[0] if keys else b"", command(*argv), now, size)
            pending.more_keys = keys[1:]
        else:
            pending = Gathered(self, forwarded, now, size, len(parts), self.session.protocol, MAX_REPLY_BYTES)
            keys = [canonical(key, default) for key, _ in parts]
            pending.parts = [
                Part(pending, place, forwarded, key, command(*part))
                for place, (key, (_, part)) in enumerate(zip(keys, parts, strict=True))
            ]
        pending.muted = muted
        self._number_in_flight += pending.count
        self._bytes_in_flight += size
        self._order.append(pending)
        if not self.session.deferring:
            pending.access, pending.keys = forwarded.ordering, keys
            if self._ordering.conflicts(pending.access, keys):
                self._ordering.park(pending, pending.access, keys)
                return
            self._ordering.add(pending.access, keys)
        self._send_out(pending)

    def _begin_parked(self, pending: Pending) -> None:
        self._ordering.add(pending.access, pending.keys)
        waited = self._now() - pending.started
        if waited > self._server.timeout:
            self.finished(pending, error_line(to_resp(self._too_late(waited))))
        else:
            self._send_out(pending)

    def _send_out(self, pending: Pending) -> None:
        if isinstance(pending, Request):
            self._send(pending)
        elif isinstance(pending, Gathered):
            parts, pending.parts = pending.parts[:TURN_COMMANDS], pending.parts[TURN_COMMANDS:]
            for part in parts:
                self._send(part)
            if pending.parts:
                asyncio.get_running_loop().call_soon(self._send_out, pending)

    async def _call(self, argv: list[bytes]) -> bytes:
        return bulk(await self._server.api.call(self.session, argv))

    async def _encoded(self, result: Coroutine[Any, Any, Any]) -> bytes:
        return encode(await result, self.session.protocol)

    def _begin_later(
        self, result: Coroutine[Any, Any, bytes], operation: str, argv: list[bytes], now: float, muted: bool
    ) -> None:
        """Wait for the encoded reply of a command in a task of its own."""
        pending = Pending(self, self.session.last_command, operation, now, sum(map(len, argv)))
        pending.muted = muted
        self._number_in_flight += 1
        self._bytes_in_flight += pending.size
        self._order.append(pending)
        if self.session.deferring:
            self.deferred(pending)

        async def wait() -> None:
            try:
                reply = await result
            except Exception as error:
                reply = self._error(error, operation, count=False)
            pending.replied(reply)

        task = asyncio.get_running_loop().create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- replies

    def finished(self, pending: Pending, reply: bytes) -> None:
        """Handle the reply to a command, in RESP3 (that to a command on several keys is in the client's)."""
        self._number_in_flight -= pending.count
        self._bytes_in_flight -= pending.size
        if isinstance(pending, Gathered):
            self._waiting_bytes -= pending.kept
        counts = self._calls.by_operation[pending.operation]
        counts.requests += 1
        counts.durations.observe(max(0.0, self._upstreams.now - pending.started))
        if reply[0] == _ERROR:
            counts.count_error(reply[1:].partition(b" ")[0].decode(errors="replace").lower()[:32])
        if self._lost:
            return
        if pending.access != "none":
            self._ordering.remove(pending.access, pending.keys)
        if self.session.protocol == RESP2:
            reply = in_protocol(reply, RESP2)
        # Not in place of the value that a write returns: it has been done.
        if len(reply) >= SMALL and isinstance(pending, Request) and not pending.writes:
            reply = reply if self._has_room(len(reply)) else NO_ROOM
        if pending.muted:
            pending.reply = pending.reply or b""
        elif pending.number and not pending.placed:
            self._append(b">3\r\n+deferred\r\n:%d\r\n%b" % (pending.number, reply))
        else:
            if pending.reply is not None:
                # -DEFERRED still waits for replies before it. The push must not overtake it, so the reply takes its
                # place: a client drops a push whose number it does not know yet.
                self._waiting_bytes -= len(pending.reply)
                pending.number = 0
            pending.reply = reply
            self._waiting_bytes += len(reply)
        if not self._touched:
            self._touched = True
            self._server.flush_soon(self)

    def _has_room(self, size: int) -> bool:
        """True if `size` more bytes of replies may wait here, behind others or for the client to read them.

        A single value always may.
        """
        return self.unsent + size <= max(MAX_REPLY_BYTES, size)

    def keep(self, size: int) -> bool:
        """Count `size` bytes of a reply that is not complete; False if there is no room for them."""
        budget = self._server.budget
        if not self._has_room(size) or (size >= SMALL and budget.used > budget.limit):
            self._waiting_bytes += size
            return False
        self._waiting_bytes += size
        if self._waiting_bytes >= SMALL and not self._touched and not self._lost:
            self._touched = True
            self._server.flush_soon(self)  # which counts them
        return True

    def deferred(self, pending: Pending) -> None:
        """Reply -DEFERRED in the place of a command, if the client takes its reply later (CLIENT DEFER)."""
        if not self.session.deferring or pending.number or self._lost:
            return
        self._next_deferred += 1
        pending.number = self._next_deferred
        pending.reply = b"" if pending.muted else b"-DEFERRED %d\r\n" % pending.number
        self._waiting_bytes += len(pending.reply)
        if not self._touched:
            self._touched = True
            self._server.flush_soon(self)

    def _put(self, reply: bytes) -> None:
        """Reply to a command that has begun and ended at once, behind all that are due."""
        if self._order:
            pending = Pending(self, "", "other", 0.0, 0)
            pending.reply = reply
            self._waiting_bytes += len(reply)
            self._order.append(pending)
        else:
            self._append(reply)
        if not self._touched:
            self._touched = True
            self._server.flush_soon(self)

    def push(self, message: bytes) -> None:
        """Send a message that is not a reply, behind all replies that are due."""
        if self._lost:
            return
        if self.unsent > MAX_REPLY_BYTES:
            self._server.too_slow(self)
            return
        self._put(message)

    def _append(self, reply: bytes) -> None:
        self._out.append(reply)
        self._out_bytes += len(reply)

    def write_replies(self) -> None:
        """Write the replies that are there and due, and begin commands that waited for them."""
        self._touched = False
        if self._lost:
            return
        order, out = self._order, self._out
        while order and (reply := order[0].reply) is not None:
            head = order.popleft()
            if head.number:
                head.placed = False
            self._waiting_bytes -= len(reply)
            out.append(reply)
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._out_bytes = 0
            self.session.sent += len(data)
            if data:
                self._transport.write(data)
        waits = self._ordering.freed or self._commands or self._reader.more or self._in_flight.counted
        if waits or self.session.closing or self._no_more:
            self._work()
        elif self._waiting_bytes >= SMALL or not self._writable:
            self._count()

    def _error(self, error: Exception, operation: str, *, count: bool = True) -> bytes:
        """Return the error reply for a command, and count it."""
        if isinstance(error, CommandError):
            line, code = error_line(str(error)), "invalid_argument"
        else:
            if not isinstance(error, MilenaError):
                log.error("a command failed by a defect of this program", exc_info=error)
                error = InternalError("a defect of Milena; the process's log has the details")
            line, code = error_line(to_resp(error)), to_grpc(error)[0].name.lower()
        if count:
            self._calls.by_operation[operation].count_error(code)
        return line

    def _observe(self, operation: str, started: float) -> None:
        counts = self._calls.by_operation[operation]
        counts.requests += 1
        counts.durations.observe(self._now() - started)

    # ---- bytes in flight

    def _count(self) -> bool:
        """Count the bytes that this connection holds; False if nothing may be read until the budget has room."""
        transaction = self.session.transaction
        begun = self._bytes_in_flight + (0 if transaction is None else transaction.bytes)
        in_flight, needed = self._in_flight, self._reader.needed
        unsent = self.unsent
        if not in_flight.counted and unsent < SMALL and begun < SMALL and needed < SMALL:
            return True
        in_flight.hold(COPIES * begun + unsent)
        try:
            return in_flight.arrive(COPIES * (needed + self._pending_bytes), self._now())
        except Overloaded:
            self._reject()
            return True

    @property
    def _pending_bytes(self) -> int:
        """Return the bytes of the commands that were read and have not begun."""
        return sum(len(word) for argv in self._commands for word in argv)

    @property
    def no_room_since(self) -> float:
        """Return since when it waits for room for a command, monotonic seconds; 0 if it does not."""
        return self._in_flight.since

    def no_room(self) -> None:
        """Reject the command for whose bytes there was no room in time."""
        self._in_flight.reject()
        self._reject()

    def _reject(self) -> None:
        self._reader.reject(self._commands.append)
        self._in_flight.arrive(0, 0.0)
        self._schedule()

    @property
    def unsent(self) -> int:
        """Return how many bytes of replies wait for the client to read them, or for replies before them."""
        return self._transport.get_write_buffer_size() + self._waiting_bytes + self._out_bytes

    @property
    def unsent_here(self) -> int:
        """Return how many bytes wait for the client alone."""
        return self._transport.get_write_buffer_size()

    @property
    def unread(self) -> int:
        """Return the bytes of commands that have not begun, complete or not."""
        return self._reader.held + self._pending_bytes

    # ---- the end

    def finish(self) -> None:
        """Begin no more commands, and close when those in flight have their replies."""
        self.session.closing = True
        self._work()

    def disconnect(self) -> None:
        """Close the connection now; unsent bytes are dropped."""
        self._lost = True
        self._transport.abort()

    def _close(self) -> None:
        """Close the connection once every reply before has been handed to the transport."""
        self._read_on(False)
        if self._number_in_flight or self._order or self._out:
            return  # `write_replies` leads here again
        if self._broken:
            self._transport.write(error_line(f"ERR {self._broken}"))
        self._lost = True
        self._transport.close()
