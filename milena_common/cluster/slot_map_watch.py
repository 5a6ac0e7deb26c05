"""Coordination. Follows the ring of a router: for an event loop (`AsyncRingWatch`) and for threads (`RingWatch`).

A router sends its ring at once and after each change, on a stream that stays open. When the stream breaks off, the
last ring stays valid: nodes and their slots outlive a router, and a node that is asked for a slot which is no
longer its own says so. The router is asked anew with growing, jittered pauses, so that a thousand clients do not
come back in the same moment.

Never back: a ring with an epoch below the newest known is not taken over, whichever router it comes from. Epochs
grow across restarts of the router.

A router with DIRECT_ACCESS=false refuses: its clients go through it. Then no ring is known, also if one was before,
and the router is asked rarely, because its operator would have to change that.

A router that vanished without a word (its machine lost power, a cable was pulled) is noticed by keepalive pings,
within 25 s (`milena_common.rpc.options`); a node that vanished is noticed by the router, which tells.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from typing import Any, Protocol

from google.protobuf.message import Message

from milena_common.api.errors import FailedPrecondition, MilenaError
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_map import SlotMap
from milena_common.runtime.backoff import Backoff

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.1, max_delay=2.0)
REJECTED_SECONDS = 30.0

OnChange = Callable[[SlotMap], None]


class AsyncStreams(Protocol):
    """What is used of a connection to a router, for an event loop."""

    def watch(self, method: str, request: Message) -> AsyncGenerator[Any, None]:
        """The answers to one request, as they come. Raises MilenaError."""


class Streams(Protocol):
    """What is used of a connection to a router, for threads."""

    def watch(self, method: str, request: Message) -> Generator[Any, None, None]:
        """The answers to one request, as they come; blocks between them. Raises MilenaError."""

    def close(self) -> None:
        """End the connection, and the streams with it."""


class Sleeper(Protocol):
    """What is used of a clock."""

    async def sleep(self, seconds: float) -> None: ...


class Following:
    """What is known of the ring, and what each event changes in it; told by whoever has the stream.

    `current` is the newest ring, empty while none is known; `rejected`, whether the router withholds it.
    """

    def __init__(self, on_change: OnChange, rng: Callable[[], float], rejected_pause: float) -> None:
        self.current = SlotMap.empty()
        self.rejected = False
        self._on_change = on_change
        self._rng = rng
        self._rejected_pause = rejected_pause
        self._newest = 0
        self._failures = 0

    def received(self, update: pb.RingUpdate) -> None:
        """Take over the ring of `update` unless a newer one is known. Raises ValueError if it is no ring."""
        known = update.epoch < self._newest or update.epoch == self.current.epoch
        slot_map = None if known else SlotMap.from_update(update)
        self._failures = 0
        self.rejected = False
        if slot_map is not None:
            self._newest = slot_map.epoch
            self.current = slot_map
            self._on_change(slot_map)

    def disconnected(self, why: Exception | None) -> float:
        """The stream is over; seconds to wait before asking again."""
        self._failures += 1
        if isinstance(why, FailedPrecondition):
            if not self.rejected:
                log.info("the router gives no ring: %s", why)
            self.rejected = True
            if self.current.epoch:
                self.current = SlotMap.empty()
                self._on_change(self.current)
            # Spread like every other pause, though it is not to grow.
            return self._rejected_pause * (0.5 + self._rng() / 2)
        if isinstance(why, ValueError) and not isinstance(why, MilenaError):
            log.warning("the router sent what is no ring: %s", why)
        return BACKOFF.delay(self._failures, self._rng)


class AsyncRingWatch:
    """The ring of one router, for an event loop. Whoever makes it runs `run()` as a task, and cancels that.

    `on_change` is called with each newer ring, in the event loop, and with an empty one when the router begins to
    withhold it. `node_id` is that of the node that watches, "" for a client. `on_disconnected` is called when a
    stream is over: the router stops, was restarted or cannot be reached.
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
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._on_disconnected = on_disconnected
        self._request = pb.WatchRingRequest(node_id=node_id)
        self._following = Following(on_change, rng, rejected_pause)

    @property
    def current(self) -> SlotMap:
        """The newest ring; empty (epoch 0) while none is known."""
        return self._following.current

    @property
    def rejected(self) -> bool:
        """Whether the router withholds its ring: DIRECT_ACCESS=false."""
        return self._following.rejected

    async def run(self) -> None:
        """Follow the ring for ever."""
        while True:
            why: Exception | None = None
            try:
                async with aclosing(self._connection.watch("WatchRing", self._request)) as updates:
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
        """The newest ring; empty (epoch 0) while none is known. Takes no lock."""
        return self._following.current

    @property
    def rejected(self) -> bool:
        """Whether the router withholds its ring: DIRECT_ACCESS=false."""
        return self._following.rejected

    def start(self) -> None:
        """Begin to follow, unless that has begun. Raises RuntimeError if no thread can be had."""
        with self._starting:
            if self._thread is None and not self._closed.is_set():
                thread = threading.Thread(target=self._follow, name="milena ring watch", daemon=True)
                thread.start()
                self._thread = thread

    def forked(self) -> None:
        """The thread is not in this process, and may have held the lock."""
        self._starting = threading.Lock()

    def close(self) -> None:
        """Stop following, and end the connection."""
        self._closed.set()
        self._connection.close()
        with self._starting:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _follow(self) -> None:
        while not self._closed.is_set():
            why: Exception | None = None
            try:
                with closing(self._connection.watch("WatchRing", pb.WatchRingRequest())) as updates:
                    for update in updates:
                        self._following.received(update)
            except (MilenaError, ValueError) as error:
                why = error
            if self._closed.is_set():
                return
            self._closed.wait(self._following.disconnected(why))
