"""Coordination. The node's ring, as the forwarding of commands sees it (`milena_common.forwarding.topology`).

A write that another node has done needs no confirmation here: its node invalidates the key at a new owner itself,
as for its own clients (`late_writes`).
"""

from __future__ import annotations

from collections.abc import Iterator

from milena_cache.membership.ownership import Ownership
from milena_common.api.errors import Moved, NodeUnreachable
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import slot_of
from milena_common.forwarding.pending import Request
from milena_common.forwarding.topology import Upstream
from milena_common.network.addresses import parse_address
from milena_common.network.allowed_networks import NO_ADDRESS, why_not
from milena_common.resp.identity import Identity
from milena_common.tls.outgoing import Outgoing


class NodeTopology:
    """The other nodes in the newest ring of `ownership`. `outgoing`: how they are called."""

    def __init__(self, ownership: Ownership, outgoing: Outgoing) -> None:
        self._ownership = ownership
        self._outgoing = outgoing

    @property
    def epoch(self) -> SlotMap:
        return self._ownership.slot_map

    @property
    def upstreams(self) -> Iterator[Upstream]:
        ring = self.epoch
        for node in ring.nodes:
            if node.address != self._ownership.me:
                called, certificates = self._outgoing.choose(node.plain_resp_address, node.resp_tls_address)
                identity = Identity(ring.cluster_id, ring.default_bucket, node.node_id)
                yield Upstream(node.address, called, identity, certificates)

    @property
    def ranges(self) -> Iterator[tuple[int, int, str]]:
        me = self._ownership.me
        for first, last, node, _ in self.epoch.ranges:
            yield first, last, "" if node.address == me else node.address

    @property
    def unpublished(self) -> bool:
        return False

    async def published(self, timeout: float) -> None:
        """Return: the newest ring may always be followed, its owners check what they may serve."""

    def destination(self, slot: int) -> str:
        ring, me = self.epoch, self._ownership.me
        for first, last, node, _ in ring.pending:
            if first <= slot <= last and node.address not in (me, ring.target(slot).address):
                return node.address
        return ""

    def find_owner(self, key: bytes) -> str:
        """Return the node to which this one has just handed the slot over, before the ring says so."""
        slot = slot_of(key)
        error = self._ownership.elsewhere(slot)
        if not isinstance(error, Moved):
            raise error
        return self.destination(slot)

    def take(self, request: Request) -> bool:
        if self._ownership.since[slot_of(request.key)] < 0:
            return False
        request.run_here()
        return True

    async def checked(self, called: str) -> None:
        """Return: what `to_call` checks needs no waiting."""

    def to_call(self, called: str) -> str:
        if (reason := why_not(parse_address(called).host)) and reason != NO_ADDRESS:
            raise NodeUnreachable(f"the node at {called} must not be called: it {reason}; nothing was done")
        return called

    async def confirm(self, request: Request, deadline: float) -> None:
        """Return: see the module's docstring."""
