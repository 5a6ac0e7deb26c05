"""Coordination. Sends a request to the node that owns its key.

Invariants:
- A request goes to the owner in the newest ring, with the epoch since which it owns the slot.
- A read that loses its node is sent once more, to the owner in the ring at that time. A write is not: the lost node
  may or may not have done it.
- A write is acknowledged only when every later read will find it. If its key got another owner while the write was
  in flight, that owner may have read S3 just before the write arrived there; so it invalidates the key first.
- The caller gets a response within its deadline, even from a silent node: the node's timeout is a little shorter.
- Each connection is for one process of one cluster, and another process at the same address rejects it. A restarted
  node is another process until it has joined: nothing was done, so the request waits up to REJOIN_SECONDS for that.
- While a slot moves, its owner in the ring may have handed it over already: the request follows to the destination.
  In the gap, when neither serves it, nothing was done, and the request waits within its deadline.
- When a node's lease expires, calls that still wait for it fail at once, so that reads go to the new owner instead
  of waiting for a process that may be gone. A node that leaves by itself finishes its calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from milena_common.api.errors import Moved, NodeLost, NoNodes, TryAgain, WrongNode
from milena_common.api.methods import INVALIDATE
from milena_common.cluster.slot_assignment import Member, Owner
from milena_common.forwarding.topology import (
    LEAVE_GRACE_SECONDS,
    MIN_SECONDS,
    REJOIN_CHECK_SECONDS,
    REJOIN_SECONDS,
)
from milena_common.resp.identity import Identity
from milena_common.runtime.clock import Clock
from milena_common.runtime.deadlines import inner
from milena_router.forwarding.node_connection import NodeConnection
from milena_router.ring.losses.copy_timers import waits_for
from milena_router.ring.membership import EXITED, EXPIRED, Change, Membership

WARN_AGAIN_SECONDS = 60.0

# Seconds after which a request for a slot without an owner should be repeated.
WAITING_RETRY_SECONDS = 1.0

Connect = Callable[[str, Mapping[str, str], Identity], NodeConnection]

log = logging.getLogger(__name__)


class Forwarder:
    """Connections to the nodes of the newest ring of `membership`.

    `connect` opens a connection, given the node's gRPC address, the addresses of its other servers by name, and its
    expected identity.
    """

    def __init__(self, membership: Membership, connect: Connect, clock: Clock) -> None:
        self._membership = membership
        self._cluster_id = membership.cluster_id
        self._connect = connect
        self._clock = clock
        self._connections: dict[str, NodeConnection] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._warn_again: dict[str, float] = {}

    async def read_at_owner(
        self, method: str, cache_key: bytes, build: Callable[[int], bytes], timeout: float, response_bytes: int = 0
    ) -> bytes:
        """Return the owner's response to `build(owned_since)`, within `timeout` seconds; see `NodeConnection.call`.

        Raises NoNodes, NodeLost (naming node and slot), or the error that the node returned.
        """
        deadline = self._clock.now() + inner(timeout)
        try:
            return (await self._request_owner(cache_key, method, build, deadline, response_bytes))[0]
        except NodeLost:
            if deadline - self._clock.now() < MIN_SECONDS:
                raise
            return (await self._request_owner(cache_key, method, build, deadline, response_bytes))[0]

    async def write_at_owner(
        self,
        method: str,
        cache_key: bytes,
        build: Callable[[int], bytes],
        invalidate: bytes,
        timeout: float,
    ) -> bytes:
        """Send a write, only once; otherwise as `read_at_owner`.

        `invalidate` is the request to invalidate the same key at a node.
        """
        deadline = self._clock.now() + inner(timeout)
        response, owner = await self._request_owner(cache_key, method, build, deadline)
        while (newer := self._membership.ring.find(cache_key)).owned_since != owner.owned_since and newer.address:
            await self._call(newer, INVALIDATE.name, lambda _: invalidate, deadline)
            owner = newer
        return response

    async def _request_owner(
        self, cache_key: bytes, method: str, build: Callable[[int], bytes], deadline: float, response_bytes: int = 0
    ) -> tuple[bytes, Owner]:
        """Return the response of the owner, and the owner."""
        rejoin_deadline = min(deadline - MIN_SECONDS, self._clock.now() + REJOIN_SECONDS)
        owner = self.owner(cache_key)
        while True:
            pause = REJOIN_CHECK_SECONDS
            try:
                return await self._call(owner, method, build, deadline, response_bytes), owner
            except WrongNode:
                if self._clock.now() + pause >= rejoin_deadline:
                    raise
            except (Moved, TryAgain) as error:
                if self._clock.now() + pause >= deadline - MIN_SECONDS:
                    raise
                destination = self._destination(owner) if isinstance(error, Moved) else None
                if destination is not None:
                    owner = destination
                    continue
            await self._clock.sleep(pause)
            owner = self.owner(cache_key)

    def _destination(self, owner: Owner) -> Owner | None:
        """Return the destination of the slot's pending move, to which `owner` has handed it over already.

        None if there is none, or `owner` is the destination: then the ring decides anew after a pause.
        """
        ring = self._membership.ring
        for first, last, address, owned_since in ring.pending:
            if first <= owner.slot <= last and address != owner.address and ring.owner(owner.slot) == owner.address:
                return Owner(owner.slot, address, owned_since)
        return None

    def owner(self, cache_key: bytes) -> Owner:
        """Return the owner of a key in the newest ring. Raises NoNodes, or TryAgain if its slot waits for one."""
        ring = self._membership.ring
        owner = ring.find(cache_key)
        if not owner.address and ring.copies.waiting:
            raise TryAgain(
                f"slot {owner.slot} has no owner: its owner and all complete holders of copies are lost; it waits "
                f"for {waits_for(ring)}; nothing was done",
                WAITING_RETRY_SECONDS,
            )
        if not owner.address:
            raise NoNodes(
                f"no node in the ring (slot {owner.slot}): start a cache node with ROUTER_ADDR set to this "
                "router's address, and look for 'Join' in the router's log"
            )
        return owner

    async def _call(
        self, owner: Owner, method: str, build: Callable[[int], bytes], deadline: float, response_bytes: int = 0
    ) -> bytes:
        remaining = max(deadline - self._clock.now(), MIN_SECONDS)
        connection = self._connection(owner.address)
        try:
            return await connection.call(method, build(owner.owned_since), remaining, response_bytes)
        except (NodeLost, WrongNode) as error:
            self._warn(owner.address, error)
            # Of the same class: that determines whether the node may have done it, and the request be repeated.
            raise type(error)(f"node {owner.address}, which owns slot {owner.slot}, {error}") from None

    async def request(self, address: str, method: str, request: bytes, timeout: float) -> bytes:
        """Return the response of the node at `address`. Raises as `NodeConnection.call` does."""
        return await self._connection(address).call(method, request, timeout)

    def member_changed(self, change: Change) -> None:
        """Close the connection to a node that left, and reconnect to one that joined again."""
        if change.kind in ("Move", "Copy"):
            return
        self._warn_again.pop(change.address, None)
        gone = [self._connections.pop(change.address, None)]
        if self._cluster_id != self._membership.cluster_id:
            # Connections name the expected cluster.
            self._cluster_id = self._membership.cluster_id
            gone += self._connections.values()
            self._connections = {}
        for connection in filter(None, gone):
            grace = 0.0 if change.reason in (EXPIRED, EXITED) else LEAVE_GRACE_SECONDS
            task = asyncio.get_running_loop().create_task(connection.close(grace))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every connection."""
        connections = [*self._connections.values()]
        self._connections.clear()
        await asyncio.gather(*(connection.close(0) for connection in connections), *self._closing)

    def _warn(self, address: str, error: NodeLost | WrongNode) -> None:
        """Log that a node in the ring is not reachable, although it renews its lease; at a limited rate."""
        now = self._clock.now()
        if now >= self._warn_again.get(address, now):
            self._warn_again[address] = now + WARN_AGAIN_SECONDS
            log.warning("node %s is in the ring, and %s", address, error)

    def _connection(self, address: str) -> NodeConnection:
        connection = self._connections.get(address)
        if connection is None:
            membership = self._membership
            member = next((m for m in membership.ring.members if m.address == address), Member(address))
            identity = Identity(membership.cluster_id, membership.default_bucket, member.node_id)
            connection = self._connections[address] = self._connect(address, member.addresses, identity)
        return connection
