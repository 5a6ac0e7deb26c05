"""Coordination. Promises between the members of a ring, with which they serve on while no router renews leases.

    node a                                      every other member b
    less than half of its lease is left  ──▶    b promises for the length of a lease: it writes that down, and until
                                                then reports no `acknowledged_epoch` after that of the promise
    all have promised: a serves on       ◀──

A router that has replaced a in ring E gives its slots to others only when every other member of the ring before has
acknowledged E, or is lost itself and its lease and one promise have passed. So either one of them does not promise,
because it has acknowledged a newer ring, or the slots move only after the promise has ended. A promise is durable
before it is given: otherwise (1) b promises, and stops; (2) b starts again, and acknowledges ring E; (3) a still
serves. A process that starts keeps the recorded promises for their whole length again, since it does not know when
they were given.

A member that knows a newer ring answers with that, and the one that asked adopts it.

**A promise ends early** when every node that has it knows a newer ring than that of the promise: such a node serves
by its promises no more. So a member with a newer ring sends it to the nodes that have its promises (`RingOffers`),
and acknowledges the ring when they have replied. Otherwise the slots of a node that only the router cannot reach
would wait for the last promise, which ends up to a lease after the node's own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Protocol

from milena_cache.membership.node_fence import RETRY_SECONDS, NodeFence
from milena_cache.membership.ownership import Ownership
from milena_common.api.errors import MilenaError, Unavailable
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_map import MapNode, SlotMap
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

# The key in the journal's metadata.
NAME = "promises"
# The longest promise: as LEASE_SECONDS, and margin for rounding.
MAX_SECONDS = 3601.0
# How long to wait for the replies of one round.
MAX_ROUND_SECONDS = 2.0
# How often the fence is looked at while nothing is due.
IDLE_SECONDS = 1.0


def to_text(promises: dict[int, float]) -> str:
    """Return the lengths of promises in seconds, by epoch, as text."""
    return " ".join(f"{epoch}:{seconds:g}" for epoch, seconds in sorted(promises.items()))


def from_text(text: str) -> dict[int, float]:
    """Return what `to_text` wrote. Raises ValueError for anything else."""
    return {int(epoch): float(seconds) for epoch, _, seconds in (part.partition(":") for part in text.split())}


class PromisesGiven:
    """The promises that this node has given, for MILENA.PROMISE.

    store: stores a text under a name in the journal's metadata; returns True once it is durable, else False
    recorded: what the journal had when the process started
    given: how many promises were given
    adopt: called with a newer ring that another node has sent
    """

    def __init__(
        self, ownership: Ownership, clock: Clock, store: Callable[[str, str], Awaitable[bool]], recorded: str = ""
    ) -> None:
        self.given = 0
        self.adopt: Callable[[SlotMap], None] = lambda ring: None
        self._ownership = ownership
        self._clock = clock
        self._store = store
        # By epoch: the length of the longest promise, and when the last one ends. At most one for each ring that
        # the node had within the length of a promise.
        self._durable = from_text(recorded)
        now = clock.now()
        self._until = {epoch: now + seconds for epoch, seconds in self._durable.items()}
        # By epoch the RESP addresses of the nodes with promises, "" for those that are not known.
        self._receivers = {epoch: {""} for epoch in self._durable}

    @property
    def acknowledged_epoch(self) -> int:
        """Return the greatest epoch up to which this node promises to no other to stand by an older ring."""
        self._drop_past()
        return min((self._ownership.epoch, *self._until))

    def _drop_past(self) -> None:
        now = self._clock.now()
        for epoch in [epoch for epoch, until in self._until.items() if until <= now]:
            self._end(epoch)

    def _end(self, epoch: int) -> None:
        del self._until[epoch]
        self._receivers.pop(epoch, None)

    @property
    def outdated(self) -> list[tuple[int, str]]:
        """Return the promises in force for older rings than the newest that could end early: epoch and receiver."""
        self._drop_past()
        return [
            (epoch, address)
            for epoch in self._until
            if epoch < self._ownership.epoch and "" not in self._receivers[epoch]
            for address in sorted(self._receivers[epoch])
        ]

    def receiver_adopted(self, address: str, epoch: int) -> None:
        """Record that the node whose RESP server is at `address` knows the ring with `epoch`, or a newer one."""
        for promised in [promised for promised in self._until if promised < epoch]:
            receivers = self._receivers[promised]
            receivers.discard(address)
            if not receivers:
                self._end(promised)

    async def promise(self, epoch: int, seconds: float, receiver: str = "") -> int | bytes:
        """Promise to acknowledge no ring after that with `epoch` for `seconds`: return 1 once that is durable.

        `receiver`: the RESP address of the node that has requested it; with "", the promise does not end early.
        Returns the newest ring as a serialized RingUpdate if it is newer. Raises Unavailable if this node does not
        know the ring, is no member of it, or could not record the promise.
        """
        ownership = self._ownership
        if ownership.epoch <= epoch:
            if ownership.epoch < epoch or not ownership.is_member or seconds > MAX_SECONDS:
                raise Unavailable(
                    f"no promise to stand by the ring with epoch {epoch}: this node is no member of it"
                )
            # Before the journal has it: a renewal may be sent meanwhile, and must not acknowledge a newer ring.
            self._until[epoch] = max(self._until.get(epoch, 0.0), self._clock.now() + seconds)
            self._receivers.setdefault(epoch, set()).add(receiver)
            if self._durable.get(epoch, 0.0) < seconds:
                record = {each: length for each, length in self._durable.items() if each in self._until}
                record[epoch] = seconds
                if not await self._store(NAME, to_text(record)):
                    raise Unavailable("no promise: the journal could not record it")
                self._durable = record
        if ownership.epoch > epoch:
            return ownership.slot_map.to_update().SerializeToString()
        self.given += 1
        return 1

    def take_ring(self, message: bytes) -> int:
        """Adopt the ring that another node has sent, a serialized RingUpdate, if it is newer; return the epoch."""
        ring = _ring(message)
        known = self._ownership.slot_map
        if ring is not None and ring.cluster_id == known.cluster_id and ring.epoch > known.epoch:
            log.info("another node has sent a newer ring, with epoch %d, which is adopted", ring.epoch)
            self.adopt(ring)
        return self._ownership.epoch


class PeerPromises(Protocol):
    """The part of `Peers` that is used here."""

    async def promise(
        self, address: str, epoch: int, seconds: float, receiver: str, timeout: float
    ) -> bool | bytes:
        """Ask the node whose RESP server is at `address` for a promise; return True, or the newer ring it knows.

        `receiver` is this node's RESP address. Raises MilenaError.
        """

    async def offer_ring(self, address: str, ring: SlotMap, timeout: float) -> int:
        """Send `ring` to the node whose RESP server is at `address`; return the epoch of the ring that it has then.

        Raises MilenaError.
        """


class PromiseRequests:
    """Asks the other members of the ring for promises while no router renews the lease.

    adopt: called with a newer ring that a member knows
    """

    def __init__(
        self,
        fence: NodeFence,
        ownership: Ownership,
        peers: PeerPromises,
        clock: Clock,
        adopt: Callable[[SlotMap], None],
    ) -> None:
        self._fence = fence
        self._ownership = ownership
        self._peers = peers
        self._clock = clock
        self._adopt = adopt
        self._rejected_by = ""
        self._sleeping: asyncio.Future[None] | None = None

    def ring_changed(self) -> None:
        """Ask at once if it is due: with another ring, promises for the one before do not count any more."""
        if self._sleeping is not None and self._clock.now() >= self._fence.fence.request_at():
            self._sleeping.cancel()

    async def run(self) -> None:
        """Ask whenever it is due, until cancelled."""
        while True:
            now = self._clock.now()
            due = self._fence.fence.request_at()
            if now < due:
                self._sleeping = asyncio.ensure_future(self._clock.sleep(min(due - now, IDLE_SECONDS)))
                try:
                    await asyncio.wait([self._sleeping])
                finally:
                    self._sleeping.cancel()
                    self._sleeping = None
                # Also while no request comes: so that a closed fence is noticed, and readiness and the log show it.
                self._fence.may_serve(self._clock.now())
                continue
            self._fence.may_serve(now)
            epoch = self._ownership.epoch
            if not await self.request_promises() and self._ownership.epoch == epoch:
                await self._clock.sleep(RETRY_SECONDS)

    async def request_promises(self) -> bool:
        """Ask all other members once; True if all have promised. Adopts a newer ring that one of them has."""
        slot_map, seconds = self._ownership.slot_map, self._fence.fence.seconds
        others = [node for node in slot_map.nodes if node.address != self._ownership.me]
        timeout = min(MAX_ROUND_SECONDS, seconds / 4)
        ahead, requested_at = self._fence.ahead(), self._clock.now()
        replies = await asyncio.gather(*(self._request(node, slot_map.epoch, seconds, timeout) for node in others))
        newer = [ring for ring in map(_ring, replies) if ring is not None]
        for ring in sorted(newer, key=lambda ring: ring.epoch):
            if ring.cluster_id == slot_map.cluster_id and ring.epoch > self._ownership.epoch:
                log.info("another node knows a newer ring, with epoch %d, which is adopted", ring.epoch)
                self._adopt(ring)
        if self._ownership.epoch != slot_map.epoch:
            return False
        rejected = [(node, reply) for node, reply in zip(others, replies, strict=True) if reply is not True]
        if rejected:
            self._log_rejection(*rejected[0])
            return False
        self._rejected_by = ""
        members = self._ownership.other_members
        self._fence.promised(seconds, requested_at, slot_map.epoch, ahead, members)
        return True

    async def _request(
        self, node: MapNode, epoch: int, seconds: float, timeout: float
    ) -> bool | bytes | MilenaError:
        if not node.resp_address:
            return Unavailable("it does not speak the Redis protocol (RESP_ADDR), over which promises are given")
        try:
            return await self._peers.promise(node.resp_address, epoch, seconds, self._receiver(), timeout)
        except MilenaError as error:
            return error

    def _receiver(self) -> str:
        nodes = self._ownership.slot_map.nodes
        return next((node.resp_address for node in nodes if node.address == self._ownership.me), "")

    def _log_rejection(self, node: MapNode, reply: bool | bytes | MilenaError) -> None:
        """Log the first member without a promise, once until that changes."""
        if self._rejected_by != node.address:
            self._rejected_by = node.address
            log.warning("no router renews the lease, and node %s has not promised to wait: %s", node.address, reply)


class RingOffers:
    """Sends a newer ring to the nodes that have promises of this one, so that these end early.

    on_finished: called when a promise has ended early, so that routers learn the acknowledged epoch
    """

    def __init__(
        self,
        given: PromisesGiven,
        ownership: Ownership,
        peers: PeerPromises,
        clock: Clock,
        on_finished: Callable[[], None],
    ) -> None:
        self._given = given
        self._ownership = ownership
        self._peers = peers
        self._clock = clock
        self._on_finished = on_finished
        self._changed = asyncio.Event()

    def ring_changed(self) -> None:
        """Look for promises that may end early, soon."""
        self._changed.set()

    async def run(self) -> None:
        """Send rings until cancelled; a node that does not reply gets it again until its promise has ended."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while receivers := {address for _, address in self._given.outdated}:
                await asyncio.gather(*map(self._offer, sorted(receivers)))
                if self._given.outdated:
                    await self._clock.sleep(RETRY_SECONDS)

    async def _offer(self, address: str) -> None:
        try:
            epoch = await self._peers.offer_ring(address, self._ownership.slot_map, MAX_ROUND_SECONDS)
        except MilenaError:
            return
        before = self._given.acknowledged_epoch
        self._given.receiver_adopted(address, epoch)
        if self._given.acknowledged_epoch != before:
            self._on_finished()


def milliseconds(seconds: float) -> bytes:
    """Return `seconds` in whole milliseconds, rounded up: a promise may last longer, and never shorter."""
    return b"%d" % max(1, ceil(seconds * 1000))


def _ring(reply: bool | bytes | MilenaError) -> SlotMap | None:
    """Return the ring in a reply; None if there is no valid one."""
    if not isinstance(reply, bytes):
        return None
    try:
        return SlotMap.from_update(pb.RingUpdate.FromString(reply))
    except (
        Exception
    ) as error:  # DecodeError is protobuf's, ValueError ours: what a peer sends must not end the loop
        log.warning("another node sent an invalid ring: %s", error)
        return None
