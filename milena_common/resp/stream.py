"""Shell. One connection to a node in the Redis protocol, for an event loop. As fast as a Python client can be:

- A command is put in a list and its future in a queue; all commands of one tick of the loop leave in one write.
- The answers of one read wake their callers, and the next write is scheduled behind them, so that what they ask
  next leaves in the same tick.
- No timer a call. Each write notes how many commands had been sent and when; a sweep, some sixteen in each
  timeout, finds those whose time is over. Calls with a time of their own are in a table beside it.
- A future's result may be an error, to be raised by who awaits it: an error that nobody takes is no warning then.

`-DEFERRED id` takes a caller out of the queue; the push with that id brings the answer (docs/protocol.md).
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, Protocol, cast

import hiredis

from milena_common.api.errors import DeadlineExceeded, MilenaError, NodeLost
from milena_common.resp.client_commands import Deferred, error_of

Reply = asyncio.Future[Any]

# A sweep comes so many times in a timeout, and not more often than this.
_SWEEPS = 16
_MIN_SWEEP_SECONDS = 0.02
# Beyond so many bytes that the node has not taken, callers wait.
_MAX_UNSENT = 1 << 20
# So many commands do not wait for the end of the tick: the node works on them while the others are made.
_AT_ONCE = 32
_NOT_ENOUGH: Final = object()


class NoReply(DeadlineExceeded):
    """The node did not answer in time; its own words for the same are a plain DeadlineExceeded."""


class Owner(Protocol):
    """Who has the connection made, and is told what becomes of it."""

    def paused(self) -> None:
        """The node is slow to read: let callers wait."""

    def resumed(self) -> None:
        """The node reads again."""

    def lost(self, error: MilenaError) -> None:
        """The connection is over. Who waited has been given `error` already."""

    def pushed(self, message: list[Any]) -> None:
        """A push that is not about a deferred answer: its kind, then its elements."""


class RespStream(asyncio.Protocol):
    """`timeout` is in seconds, for the requests that are given none; `who` begins every error's text."""

    def __init__(self, owner: Owner, timeout: float, who: str = "") -> None:
        self._owner = owner
        self._timeout = timeout
        self._who = who
        self._loop = asyncio.get_running_loop()
        self._create_future = self._loop.create_future
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(
            replyError=cast("Callable[[str], Exception]", error_of), notEnoughData=_NOT_ENOUGH
        )
        self._out: list[bytes] = []
        self._flushing = False
        self._pending: deque[Reply] = deque()  # in the order of their commands
        self._parked: dict[int, tuple[Reply, float]] = {}  # deferred: by number, with when its time is over
        self._sent = 0  # commands
        self._replied = 0
        self._reads = 0
        self._written = 0  # bytes
        # For each write: commands sent up to it, when, reads by then, bytes up to it.
        self._writes: deque[tuple[int, float, int, int]] = deque()
        self._timed: dict[Reply, tuple[float, float]] = {}  # when its time is over, and how long it was
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at = 0.0
        self._was_late = False
        self._lasting: set[Reply] = set()
        self._idle: asyncio.Future[None] | None = None
        self._lost: MilenaError | None = None

    # Asking

    def request(self, command: bytes) -> Reply:
        """Send `command`. The result is the answer, or an exception to raise: MilenaError."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        self._out.append(command)
        future = self._create_future()
        self._pending.append(future)
        if len(self._out) == _AT_ONCE:
            self._flush()
        return future

    async def call(self, command: bytes, timeout: float, *, lasting: bool = False) -> Any:
        """The answer to `command` within `timeout` seconds. Raises MilenaError.

        NodeLost: it may or may not have been done. `lasting`: `break_off` leaves it alone.
        """
        future = self.request(command)
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

    # Answers

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
                    if not future.done():  # somebody still waits for it
                        future.set_result(reply)
                else:
                    replied += self._received(reply, self._replied + replied)
        except (hiredis.ProtocolError, IndexError):  # or an answer to nothing
            self.abort(NodeLost(f"{self._who}sent what is not an answer in the Redis protocol"))
            return
        self._replied += replied
        writes = self._writes
        while writes and writes[0][0] <= self._replied:
            writes.popleft()
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        if self._idle is not None:
            self._look_whether_idle()

    def _received(self, reply: Any, before: int) -> int:
        """Take what is no plain value; how many commands it answered. `before`: how many were by then."""
        if isinstance(reply, hiredis.PushNotification):
            if reply[0] != b"deferred":
                # Behind those whose answers came before it, and before those whose answers come after.
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
        """Let a sweep come soon enough for a call with `timeout` seconds."""
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
            # This process was asleep. Answers may have come meanwhile: let them be read first.
            self._was_late = True
            self._sweep_within(_MIN_SWEEP_SECONDS)
            return
        self._was_late = False
        heard = True
        number = 0
        while self._writes and self._writes[0][1] + self._timeout <= now:
            sent, _, reads, written = self._writes.popleft()
            number = sent - self._replied
            # A large value may be on its way for longer, if its caller has given it the time.
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
                future.set_result(NoReply(f"{self._who}did not answer within {timeout:.3g} s"))

    # Beginning and end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_MAX_UNSENT)
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def pause_writing(self) -> None:
        self._owner.paused()

    def resume_writing(self) -> None:
        self._owner.resumed()

    def eof_received(self) -> None:
        # No answer can come any more, also while there is something left to be sent.
        self.abort(NodeLost(f"{self._who}broke off the connection"))

    def connection_lost(self, error: Exception | None) -> None:
        if self._lost is None:
            self._close(NodeLost(f"{self._who}broke off the connection{f': {error}' if error else ''}"))

    def abort(self, error: MilenaError) -> None:
        """End the connection at once; who waits is given `error`."""
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
        """Give `error` to all who wait, except those whose calls are to last."""
        for future in self._all():
            if not future.done() and future not in self._lasting:
                future.set_result(_same(error))

    async def idle(self) -> None:
        """Return when nobody waits for an answer any more."""
        if self._idle is None:
            self._idle = self._create_future()
        self._look_whether_idle()
        await asyncio.shield(self._idle)

    def _look_whether_idle(self) -> None:
        if self._idle is None or self._idle.done():
            return
        if all(future.done() for future in self._all()):
            self._idle.set_result(None)


def _same(error: MilenaError) -> MilenaError:
    """For one caller: one who raises it adds his traceback, which is not the others'."""
    return type(error)(str(error))
