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
    """

    def __init__(
        self, ownership: Ownership, clock: Clock, store: Callable[[str, str], Awaitable[bool]], recorded: str = ""
    ) -> None:
        self.given = 0
        self._ownership = ownership
        self._clock = clock
        self._store = store
        # By epoch: the length of the longest promise, and when the last one ends. At most one for each ring that
        # the node had within the length of a promise.
        self._durable = from_text(recorded)
        now = clock.now()
        self._until = {epoch: now + seconds for epoch, seconds in self._durable.items()}

    @property
    def acknowledged_epoch(self) -> int:
        """Return the greatest epoch up to which this node promises to no other to stand by an older ring."""
        now = self._clock.now()
        for epoch in [epoch for epoch, until in self._until.items() if until <= now]:
            del self._until[epoch]
        return min((self._ownership.epoch, *self._until))

    async def promise(self, epoch: int, seconds: float) -> int | bytes:
        """Promise to acknowledge no ring after that with `epoch` for `seconds`: return 1 once that is durable.

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


class PeerPromises(Protocol):
    """The part of `Peers` that is used here."""

    async def promise(self, address: str, epoch: int, seconds: float, timeout: float) -> bool | bytes:
        """Ask the node whose RESP server is at `address` for a promise; return True, or the newer ring it knows.

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

    async def run(self) -> None:
        """Ask whenever it is due, until cancelled."""
        while True:
            now = self._clock.now()
            due = self._fence.fence.request_at()
            if now < due:
                await self._clock.sleep(min(due - now, IDLE_SECONDS))
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
            return await self._peers.promise(node.resp_address, epoch, seconds, timeout)
        except MilenaError as error:
            return error

    def _log_rejection(self, node: MapNode, reply: bool | bytes | MilenaError) -> None:
        """Log the first member without a promise, once until that changes."""
        if self._rejected_by != node.address:
            self._rejected_by = node.address
            log.warning("no router renews the lease, and node %s has not promised to wait: %s", node.address, reply)


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
