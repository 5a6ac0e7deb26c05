"""Coordination. Follows the ring of a router: for an event loop (`AsyncRingWatch`) and for threads (`RingWatch`).

A router sends its ring at once and after each change, on a stream that stays open. When the stream breaks, the last
ring stays valid: nodes and their slots outlive a router, and a node that gets a request for a slot that it no
longer owns replies with the owner. Reconnects have growing, jittered pauses, so that a thousand clients do not come
back at the same moment.

The first ring of a stream is whole, and the next ones may be changes of the one before. A change that does not fit
ends the stream, so that the next one begins with a whole ring again.

A ring with an epoch below the newest known one is ignored, whichever router it comes from. Epochs grow across
restarts of the router.

A router with DIRECT_ACCESS=false rejects the stream: its clients send requests through it. Then no ring is known,
even if one was before, and the pauses are long, because only an operator can change that.

A router that vanished silently (its machine lost power, a cable was pulled) is detected by keepalive pings, within
25 s (`milena_common.rpc.options`); a node that vanished is detected by the router, which sends a new ring.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from typing import Any, Protocol

from google.protobuf.message import Message

from milena_common.api.errors import FailedPrecondition, MilenaError
from milena_common.api.methods import WATCH_RING
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.runs_message import RUNS
from milena_common.cluster.slot_map import SlotMap
from milena_common.runtime.backoff import Backoff

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.1, max_delay=2.0)
REJECTED_SECONDS = 30.0

OnChange = Callable[[SlotMap], None]


class AsyncStreams(Protocol):
    """The part of a connection to a router that is used here, for an event loop."""

    def watch(self, method: str, request: Message) -> AsyncGenerator[Any, None]:
        """Yield the responses to one request as they arrive. Raises MilenaError."""


class Streams(Protocol):
    """The part of a connection to a router that is used here, for threads."""

    def watch(self, method: str, request: Message) -> Generator[Any, None, None]:
        """Yield the responses to one request as they arrive; blocks between them. Raises MilenaError."""

    def close(self) -> None:
        """End the connection, and the streams with it."""


class Sleeper(Protocol):
    """The part of a clock that is used here."""

    async def sleep(self, seconds: float) -> None: ...


class Following:
    """The state of following a ring, changed by the events of the stream that the caller reads.

    `current` is the newest ring, empty while none is known; `rejected` is True while the router withholds it.
    """

    def __init__(self, on_change: OnChange, rng: Callable[[], float], rejected_pause: float) -> None:
        self.current = SlotMap.empty()
        self.rejected = False
        self._on_change = on_change
        self._rng = rng
        self._rejected_pause = rejected_pause
        self._newest = 0
        self._failures = 0
        self._last: SlotMap | None = None

    def connected(self) -> None:
        """Begin a new stream: its first ring is no change of another."""
        self._last = None

    def received(self, update: pb.RingUpdate) -> None:
        """Adopt the ring of `update` unless a newer one is known. Raises ValueError if it is not a valid ring."""
        # A ring that is not adopted is kept as well: the next update of the stream may be a change of it.
        slot_map = self._last = SlotMap.from_update(update, self._last)
        self._failures = 0
        self.rejected = False
        # `_newest` is kept when a router withholds its ring and `current` becomes empty. Otherwise: (1) ring 5 is
        # withheld; (2) the stream reconnects to a router that was restarted and still has ring 4; (3) ring 4 would
        # be adopted. And the comparison with `current` allows ring 5 to be adopted again after that.
        current = self.current
        newer = slot_map.epoch != current.epoch or slot_map.released_epoch > current.released_epoch
        # Another router, at the same epoch, that sends its own port in place of the nodes.
        newer |= slot_map.nodes != current.nodes and all(not node.node_id for node in slot_map.nodes)
        if slot_map.epoch >= self._newest and newer:
            self._newest = slot_map.epoch
            self.current = slot_map
            self._on_change(slot_map)

    def disconnected(self, why: Exception | None) -> float:
        """Record the end of the stream, and return the seconds to wait before the next one."""
        self._failures += 1
        if isinstance(why, FailedPrecondition):
            if not self.rejected:
                log.info("the router withholds its ring: %s", why)
            self.rejected = True
            if self.current.epoch:
                self.current = SlotMap.empty()
                self._on_change(self.current)
            # Jittered like every other pause, but constant.
            return self._rejected_pause * (0.5 + self._rng() / 2)
        if isinstance(why, ValueError) and not isinstance(why, MilenaError):
            log.warning("the router sent an invalid ring: %s", why)
        return BACKOFF.delay(self._failures, self._rng)


class AsyncRingWatch:
    """The ring of one router, for an event loop. The caller runs `run()` as a task, and cancels it.

    `on_change` is called with each newer ring, in the event loop, and with an empty one when the router begins to
    withhold it; with feature MOVES also with the same ring when more of it is released. `node_id` is the id of the
    watching node, "" for a client. `on_disconnected` is called when a stream ended: the router stops, was restarted
    or cannot be reached.
    """

    def __init__(
        self,
        connection: AsyncStreams,
        clock: Sleeper,
        rng: Callable[[], float],
        on_change: OnChange,
        *,
        node_id: str = "",
        rejected_pause: float = REJECTED_SECONDS,
        on_disconnected: Callable[[], None] = lambda: None,
        features: int = RUNS,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._on_disconnected = on_disconnected
        self._request = pb.WatchRingRequest(node_id=node_id, features=features)
        self._following = Following(on_change, rng, rejected_pause)

    @property
    def current(self) -> SlotMap:
        """Return the newest ring; empty (epoch 0) while none is known."""
        return self._following.current

    @property
    def rejected(self) -> bool:
        """True if the router withholds its ring: DIRECT_ACCESS=false."""
        return self._following.rejected

    async def run(self) -> None:
        """Follow the ring until cancelled."""
        while True:
            why: Exception | None = None
            self._following.connected()
            try:
                async with aclosing(self._connection.watch(WATCH_RING.name, self._request)) as updates:
                    async for update in updates:
                        self._following.received(update)
            except (MilenaError, ValueError) as error:
                why = error
            self._on_disconnected()
            await self._clock.sleep(self._following.disconnected(why))


class RingWatch:
    """The ring of one router, for threads: a daemon thread of its own follows it from `start()` to `close()`.

    `on_change` is called with each newer ring, in that thread, and with an empty one when the router begins to
    withhold it.
    """

    def __init__(self, connection: Streams, rng: Callable[[], float], on_change: OnChange) -> None:
        self._connection = connection
        self._following = Following(on_change, rng, REJECTED_SECONDS)
        self._starting = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> SlotMap:
        """Return the newest ring; empty (epoch 0) while none is known. Takes no lock."""
        return self._following.current

    @property
    def rejected(self) -> bool:
        """True if the router withholds its ring: DIRECT_ACCESS=false."""
        return self._following.rejected

    def start(self) -> None:
        """Start to follow, once. Raises RuntimeError if no thread can be started."""
        with self._starting:
            if self._thread is None and not self._closed.is_set():
                thread = threading.Thread(target=self._follow, name="milena ring watch", daemon=True)
                thread.start()
                self._thread = thread

    def forked(self) -> None:
        """Replace the lock: the thread does not exist in this process, and may have held it."""
        self._starting = threading.Lock()

    def close(self) -> None:
        """Stop following, and end the connection."""
        # Set first. Otherwise the thread would take the error of the closed connection for that of a router which
        # withholds its ring, and call `on_change`.
        self._closed.set()
        self._connection.close()
        # The lock, because `start` in another thread may have started the thread and not stored it yet.
        with self._starting:
            thread = self._thread
        # `on_change` or a finalizer may call this in the thread itself, which cannot wait for its own end.
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _follow(self) -> None:
        request = pb.WatchRingRequest(features=RUNS)
        while not self._closed.is_set():
            why: Exception | None = None
            self._following.connected()
            try:
                with closing(self._connection.watch(WATCH_RING.name, request)) as updates:
                    for update in updates:
                        self._following.received(update)
            except (MilenaError, ValueError) as error:
                why = error
            if self._closed.is_set():
                return
            self._closed.wait(self._following.disconnected(why))
