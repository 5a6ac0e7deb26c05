"""Coordination. etcd as the routers of a simulation reach it: one state, changed by compare-and-swap; its faults.

Requests and replies travel over the network, with its delays and partitions. While a leader is elected nothing is
decided: a request that came before may have taken effect or not, and its sender learns neither; one that comes
meanwhile takes effect afterwards, or never. A watch has every change in order until it ends; a silent one stays
open, and has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from random import Random
from typing import Any

from milena_common.api.errors import Unavailable
from milena_router.shared.ring_store import Snapshot, Update, Write
from tests.simulation.loop import Process, here
from tests.simulation.network import SYSTEM, Network, Wire
from tests.support.memory_ring_store import MemoryRing

HOST = "etcd"
# Virtual seconds that etcd takes for a request, most of them for its fsync, between these.
MIN_SECONDS, MAX_SECONDS = 0.001, 0.01
# Changes that a watch can begin at: those before were compacted.
KEPT_CHANGES = 20


class Etcd:
    """The state, and what is wrong with it. `electing`: True while there is no leader."""

    def __init__(self, network: Network, rng: Random) -> None:
        self.ring = MemoryRing()
        self.electing = False
        self.changes = 0
        self._network = network
        self._rng = rng
        self._waiting: list[Callable[[], None]] = []
        self._watches: dict[_Watch, None] = {}

    # ---- faults

    def lose_leader(self) -> None:
        """Begin an election: of the requests that wait for it some are lost. Watches end."""
        self.electing = True
        self.break_watches()

    def elect(self) -> None:
        """End the election."""
        self.electing = False
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            if self._rng.random() < 0.5:
                request()

    def break_watches(self) -> None:
        """End all watches, as a server that is stopped or a compaction does."""
        watches, self._watches = list(self._watches), {}
        for each in watches:
            each.notify(Unavailable("etcd: the watch was cancelled"))

    def silence_watches(self) -> Callable[[], None]:
        """Have the present watches get nothing any more, although they stay open; return what ends them."""
        silent = list(self._watches)
        for each in silent:
            del self._watches[each]

        def end() -> None:
            for each in silent:
                each.notify(Unavailable("etcd: the watch has had no progress"))

        return end

    # ---- requests, when they have arrived

    def carry_out(self, work: Callable[[], Any], reply: Callable[[Any], None]) -> None:
        """Do `work`, now or after the election, and hand its result over, unless the leader is lost with it."""
        if self.electing:
            self._waiting.append(lambda: self.carry_out(work, reply))
            return
        seen = len(self.ring.history)
        result = work()
        for update in self.ring.history[seen:]:
            self.changes += 1
            for each in self._watches:
                each.notify(update)
        self.ring.compacted = self.ring.revision - KEPT_CHANGES
        loop = self._network.loop

        def committed() -> None:
            if not self.electing:
                reply(result)

        loop.call_later(self._rng.uniform(MIN_SECONDS, MAX_SECONDS), committed, context=SYSTEM)

    def watch(self, watch: _Watch, revision: int) -> None:
        """Send everything from `revision` on."""
        if self.electing or revision <= self.ring.compacted:
            watch.notify(Unavailable("etcd: compacted, or without a leader"))
            return
        watch.notify(Update(0, None, {}))
        for update in self.ring.history:
            if update.revision >= revision:
                watch.notify(update)
        self._watches[watch] = None

    def unwatch(self, watch: _Watch) -> None:
        self._watches.pop(watch, None)


class _Watch:
    """A watch: its updates, and the error that ends it, on their way to the router's `process`."""

    def __init__(self, wire: Wire, process: Process) -> None:
        self.queue: asyncio.Queue[Update | Unavailable] = asyncio.Queue()
        self._wire = wire
        self._process = process

    def notify(self, what: Update | Unavailable) -> None:
        self._wire.send(self.queue.put_nowait, self._process.context, what)


class RouterStore:
    """Implements `RingStore` for the process of a router that creates it."""

    def __init__(self, etcd: Etcd, network: Network) -> None:
        self._etcd = etcd
        self._network = network
        self._process = here()
        host = self._process.host
        self._there, self._back = Wire(network, host, HOST), Wire(network, HOST, host)

    async def read(self, timeout: float) -> Snapshot:
        ring = self._etcd.ring
        found: Snapshot = await self._request(
            "read", lambda: Snapshot(ring.revision, ring.state, dict(ring.records)), timeout
        )
        return found

    async def write(self, change: Write, timeout: float) -> int | None:
        revision: int | None = await self._request("write", lambda: self._etcd.ring.write(change), timeout)
        return revision

    async def _request(self, name: str, work: Callable[[], Any], timeout: float) -> Any:
        replied: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        context, back = self._process.context, self._back

        def received(result: Any) -> None:
            if not replied.done():
                replied.set_result(result)

        self._network.record(self._process.name, "etcd", name)
        self._there.send(self._etcd.carry_out, SYSTEM, work, lambda result: back.send(received, context, result))
        try:
            return await asyncio.wait_for(replied, timeout)
        except TimeoutError:
            raise Unavailable(f"etcd did not reply within {timeout:g} s") from None

    async def follow(self, revision: int) -> AsyncGenerator[Update, None]:
        watch = _Watch(self._back, self._process)
        self._there.send(self._etcd.watch, SYSTEM, watch, revision)
        try:
            while True:
                received = await watch.queue.get()
                if isinstance(received, Unavailable):
                    raise received
                yield received
        finally:
            self._there.send(self._etcd.unwatch, SYSTEM, watch)

    async def close(self) -> None:
        pass
