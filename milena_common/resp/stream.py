"""Shell. One connection to a node in the Redis protocol, for an event loop, with as little work a call as possible:

- A command is put in a list and its future in a queue; all commands of one loop iteration are sent in one write.
- The replies of one read wake their callers, and the next write is scheduled behind them, so that the callers' next
  requests are sent in the same iteration.
- No timer for each call. Each write records the number of commands sent and the time; a sweep, sixteen in each
  timeout, finds the expired ones. Calls with their own timeout are in a separate table.
- A future's result may be an error, which the awaiting caller raises: so an error that is never awaited causes no
  warning.

`-DEFERRED id` takes a request out of the queue; the push with that id has its reply (docs/protocol.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Any, Final, Protocol, cast

import hiredis

from milena_common.api.errors import DeadlineExceeded, MilenaError, NodeLost, Overloaded
from milena_common.resp.client_commands import Deferred, MethodCall, NodeCall, error_of
from milena_common.resp.peer_clock import PeerClock

Reply = asyncio.Future[Any]

# Sweeps in one timeout, and the minimum pause between them in seconds.
_SWEEPS = 16
_MIN_SWEEP_SECONDS = 0.02
# Unsent bytes beyond which callers wait.
_MAX_UNSENT = 1 << 20
# So many commands are sent before the end of the iteration: the node works on them while the others are built.
_AT_ONCE = 32
_NOT_ENOUGH: Final = object()
# A read of so many bytes is part of a large reply, or of many: the parser's buffer is given up when it is empty.
# Otherwise it keeps the room of the largest reply, some megabytes for each node that a reader of a file reads from.
_LARGE_READ = 128 * 1024


def _new_reader() -> hiredis.Reader:
    return hiredis.Reader(replyError=cast("Callable[[str], Exception]", error_of), notEnoughData=_NOT_ENOUGH)


class NoReply(DeadlineExceeded):
    """The node did not reply in time; its own error for the same is a plain DeadlineExceeded."""


class Owner(Protocol):
    """Receives the events of a connection."""

    def paused(self) -> None:
        """Make callers wait, because the node reads slowly."""

    def resumed(self) -> None:
        """Let callers continue, because the node reads again."""

    def lost(self, error: MilenaError) -> None:
        """Handle the end of the connection; pending requests have failed with `error` already."""

    def pushed(self, message: list[Any]) -> None:
        """Handle a push that is not a deferred reply: its kind, then its elements."""


class RespStream(asyncio.Protocol):
    """One connection. `timeout`, in seconds, is for requests without their own; `who` begins every error's text.

    hello: the command that returns the node's time (MILENA.HELLO), b"" if calls are to carry no deadlines
    takes_sets: True if the node takes puts as SET, see `client_commands.takes_sets`
    """

    def __init__(self, owner: Owner, timeout: float, who: str = "", hello: bytes = b"") -> None:
        self._hello = hello
        self.takes_sets = False
        self._peer_clock = PeerClock()
        self._owner = owner
        self._timeout = timeout
        self._who = who
        self._loop = asyncio.get_running_loop()
        self._create_future = self._loop.create_future
        self._transport: asyncio.Transport | None = None
        self._reader = _new_reader()
        self._grown = False  # the reader's buffer is large
        self._out: list[bytes] = []
        self._flushing = False
        self._pending: deque[Reply] = deque()  # in the order of their commands
        self._parked: dict[int, tuple[Reply, float]] = {}  # deferred: by number, with the deadline
        self._sent = 0  # commands
        self._replied = 0
        self._reads = 0
        self._written = 0  # bytes
        # For each write: commands sent up to it, its time, reads by then, bytes up to it.
        self._writes: deque[tuple[int, float, int, int]] = deque()
        self._timed: dict[Reply, tuple[float, float]] = {}  # deadline and timeout
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at = 0.0
        self._was_late = False
        self._lasting: set[Reply] = set()
        self._idle: asyncio.Future[None] | None = None
        self._lost: MilenaError | None = None

    @property
    def heard(self) -> bool:
        """Return True if the node has sent something."""
        return self._reads > 0

    @property
    def closed(self) -> bool:
        """Return True if the connection has ended."""
        return self._lost is not None

    @property
    def is_idle(self) -> bool:
        """Return True if no reply is pending."""
        return all(future.done() for future in self._all())

    # Requests

    def request(self, command: bytes) -> Reply:
        """Send `command`. The future's result is the reply, or an exception to raise: MilenaError."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        self._out.append(command)
        future = self._create_future()
        self._pending.append(future)
        if len(self._out) == _AT_ONCE:
            self._flush()
        return future

    async def call(self, command: bytes, timeout: float, *, lasting: bool = False, at_once: bool = False) -> Any:
        """Return the reply to `command` within `timeout` seconds. Raises MilenaError.

        NodeLost: the command may or may not have been executed. `lasting`: `break_off` does not fail this call.
        `at_once`: it is sent now, with what is queued, and not when this iteration of the event loop has ended.
        """
        future = self.request(command)
        if at_once:
            self._flush()
        self._timed[future] = (self._loop.time() + timeout, timeout)
        if lasting:
            self._lasting.add(future)
        self._sweep_within(timeout)
        try:
            reply = await future
        finally:
            del self._timed[future]
            self._lasting.discard(future)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def begin(self, command: bytes, timeout: float) -> Reply:
        """Send `command` now, with what is queued, and return the future of `request`; within `timeout` seconds."""
        future = self.request(command)
        self._flush()
        self._timed[future] = (self._loop.time() + timeout, timeout)
        future.add_done_callback(self._timed.pop)
        self._sweep_within(timeout)
        return future

    async def call_method(
        self, method: str, request: bytes, timeout: float, *, lasting: bool = False, end_user: str = ""
    ) -> Any:
        """Return the serialized response to a call of the node's API, as `call` does. Raises as it does.

        `end_user`: for whom a process of the cluster makes it.
        """
        return await self.make(MethodCall(method, request, end_user), timeout, lasting=lasting)

    async def make(self, call: NodeCall, timeout: float, *, lasting: bool = False) -> Any:
        """Return the reply to a call, as `call` does. Raises as it does.

        A call that writes carries a deadline, after which the node does not carry it out.
        """
        if not call.writes:
            return await self.call(call.command(timeout, None), timeout, lasting=lasting)
        now = self._loop.time()
        if self._peer_clock.needs_renewal(now):
            gives_up_at = now + timeout
            await self.observe_time(self.call(self._hello, timeout))
            now = self._loop.time()
            timeout = gives_up_at - now
        command = call.command(timeout, self._peer_clock.deadline(now, timeout))
        try:
            return await self.call(command, timeout, lasting=lasting)
        except Overloaded:
            self._peer_clock.doubt()
            raise

    async def observe_time(self, replying: Awaitable[Any]) -> Any:
        """Return the reply to MILENA.HELLO, and take the node's time from it.

        This continues in a later iteration of the event loop than the one that has read the reply. So the loop's
        time, which may be that of the beginning of an iteration, is not before the reply.
        """
        reply = await replying
        self._peer_clock.observe(reply, self._loop.time())
        return reply

    def _flush(self) -> None:
        self._flushing = False
        out = self._out
        if not out:
            return
        self._out = []
        self._sent += len(out)
        if self._lost is not None or self._transport is None:
            self._fail_all(self._lost or NodeLost(f"{self._who}is not connected"))
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        self._transport.write(data)
        self._written += len(data)
        self._writes.append((self._sent, self._loop.time(), self._reads, self._written))
        if self._sweeper is None:
            self._sweep_within(self._timeout)

    # Replies

    def data_received(self, data: bytes) -> None:
        reader, pop = self._reader, self._pending.popleft
        gets = reader.gets
        self._reads += 1
        replied = 0
        try:
            reader.feed(data)
            while (reply := gets()) is not _NOT_ENOUGH:
                if type(reply) is bytes or reply is None:
                    replied += 1
                    future = pop()
                    if not future.done():  # its caller still waits
                        future.set_result(reply)
                else:
                    replied += self._received(reply, self._replied + replied)
        except (hiredis.ProtocolError, IndexError):  # or a reply without a request
            self.abort(NodeLost(f"{self._who}sent a reply that is not in the Redis protocol"))
            return
        self._replied += replied
        if len(data) >= _LARGE_READ:
            self._grown = True
        if self._grown and not reader.has_data():
            self._reader, self._grown = _new_reader(), False
        writes = self._writes
        while writes and writes[0][0] <= self._replied:
            writes.popleft()
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        if self._idle is not None:
            self._look_whether_idle()

    def _received(self, reply: Any, before: int) -> int:
        """Handle a reply that is no plain value, and return the number of commands it completes.

        `before`: commands completed by earlier replies.
        """
        if isinstance(reply, hiredis.PushNotification):
            if reply[0] != b"deferred":
                # After the callers of earlier replies, and before those of later ones.
                self._loop.call_soon(self._owner.pushed, reply)
            elif (parked := self._parked.pop(reply[1], None)) is not None and not parked[0].done():
                parked[0].set_result(reply[2])
            return 0
        future = self._pending.popleft()
        if isinstance(reply, Deferred):
            while self._writes and self._writes[0][0] <= before:
                self._writes.popleft()
            sent = self._writes[0][1] if self._writes else self._loop.time()
            self._parked[reply] = (future, sent + self._timeout)
        elif not future.done():
            future.set_result(reply)
        return 1

    # Time

    def _sweep_within(self, timeout: float) -> None:
        """Schedule a sweep soon enough for a call with `timeout` seconds."""
        now = self._loop.time()
        at = now + max(timeout / _SWEEPS, _MIN_SWEEP_SECONDS)
        if self._sweeper is not None:
            if self._sweep_at <= at:
                return
            self._sweeper.cancel()
        self._sweep_at = at
        self._sweeper = self._loop.call_at(at, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._loop.time()
        if now - self._sweep_at > self._timeout / 4 and not self._was_late:
            # This process was suspended. Replies may have arrived meanwhile: read them first.
            self._was_late = True
            self._sweep_within(_MIN_SWEEP_SECONDS)
            return
        self._was_late = False
        heard = True
        number = 0
        while self._writes and self._writes[0][1] + self._timeout <= now:
            sent, _, reads, written = self._writes.popleft()
            number = sent - self._replied
            # A large value may take longer to send, if its caller's timeout allows.
            heard = reads < self._reads or (bool(self._timed) and written > self._written - self._unsent())
        over = [future for future in islice(self._pending, number) if future not in self._timed]
        for parked, at in self._parked.values():
            if at <= now and parked not in self._timed:
                over.append(parked)
        self._abandon(over, self._timeout)
        shortest = self._timeout
        for future, (at, timeout) in [*self._timed.items()]:
            if at <= now:
                self._abandon([future], timeout)
            else:
                shortest = min(shortest, timeout)
        if not heard:
            self.abort(NodeLost(f"{self._who}has been silent for {self._timeout:.3g} s"))
        elif self._pending or self._parked:
            self._sweep_within(shortest)

    def _unsent(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _abandon(self, futures: Iterable[Reply], timeout: float) -> None:
        for future in futures:
            if not future.done():
                future.set_result(NoReply(f"{self._who}did not respond within {timeout:.3g} s"))

    # Start and end of the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_MAX_UNSENT)

    def pause_writing(self) -> None:
        self._owner.paused()

    def resume_writing(self) -> None:
        self._owner.resumed()

    def eof_received(self) -> None:
        # No reply can arrive any more, even if there are unsent bytes.
        self.abort(NodeLost(f"{self._who}broke off the connection"))

    def connection_lost(self, error: Exception | None) -> None:
        if self._lost is None:
            self._close(NodeLost(f"{self._who}broke off the connection{f': {error}' if error else ''}"))

    def abort(self, error: MilenaError) -> None:
        """End the connection at once; pending requests fail with `error`."""
        if self._lost is None:
            self._close(error)
            if self._transport is not None:
                self._transport.abort()

    def _close(self, error: MilenaError) -> None:
        self._lost = error
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._fail_all(error)
        self._owner.lost(error)

    def _fail_all(self, error: MilenaError) -> None:
        for future in self._all():
            if not future.done():
                future.set_result(_same(error))
        self._pending.clear()
        self._parked.clear()
        self._look_whether_idle()

    def _all(self) -> list[Reply]:
        return [*self._pending, *(parked for parked, _ in self._parked.values())]

    def break_off(self, error: MilenaError) -> None:
        """Fail all pending requests with `error`, except lasting calls."""
        for future in self._all():
            if not future.done() and future not in self._lasting:
                future.set_result(_same(error))

    async def idle(self) -> None:
        """Return when no reply is pending."""
        if self._idle is None:
            self._idle = self._create_future()
        self._look_whether_idle()
        await asyncio.shield(self._idle)

    def _look_whether_idle(self) -> None:
        if self._idle is None or self._idle.done():
            return
        if self.is_idle:
            self._idle.set_result(None)


def _same(error: MilenaError) -> MilenaError:
    """Return a copy of `error` for one caller: raising it adds that caller's traceback."""
    return type(error)(str(error))
