"""Coordination. The router's ring, as the forwarding of commands sees it (`milena_common.forwarding.topology`)."""

from __future__ import annotations

from collections.abc import Iterator

from milena_common.api.keys import split_cache_key
from milena_common.api.methods import INVALIDATE
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.cluster.member import RESP, RESP_TLS
from milena_common.cluster.slot_assignment import Ring
from milena_common.forwarding.pending import Request
from milena_common.forwarding.topology import MIN_SECONDS, Upstream
from milena_common.resp.identity import Identity
from milena_common.runtime.clock import Clock
from milena_common.tls.outgoing import Outgoing
from milena_router.forwarding.forward import Forwarder
from milena_router.forwarding.join_addresses import JoinAddresses
from milena_router.ring.leases import Leases


class RouterTopology:
    """The newest ring of `leases`. `outgoing`: how nodes are called; `allowed`: the addresses that may be."""

    def __init__(
        self, leases: Leases, forwarder: Forwarder, outgoing: Outgoing, allowed: JoinAddresses, clock: Clock
    ) -> None:
        self._leases = leases
        self._forwarder = forwarder
        self._outgoing = outgoing
        self._allowed = allowed
        self._clock = clock

    @property
    def epoch(self) -> Ring:
        return self._leases.membership.ring

    @property
    def upstreams(self) -> Iterator[Upstream]:
        membership = self._leases.membership
        for member in membership.ring.members:
            called, certificates = self._outgoing.choose(
                member.addresses.get(RESP, ""), member.addresses.get(RESP_TLS, "")
            )
            identity = Identity(membership.cluster_id, membership.default_bucket, member.node_id)
            yield Upstream(member.address, called, identity, certificates)

    @property
    def ranges(self) -> Iterator[tuple[int, int, str]]:
        return ((first, last, address) for first, last, address, _ in self.epoch.ranges())

    @property
    def unpublished(self) -> bool:
        return self._leases.recovering

    async def published(self, timeout: float) -> None:
        await self._leases.published(timeout)

    def destination(self, slot: int) -> str:
        ring = self.epoch
        for first, last, address, _ in ring.pending:
            if first <= slot <= last and ring.owner(slot) != address:
                return address
        return ""

    def find_owner(self, key: bytes) -> str:
        return self._forwarder.owner(key).address

    def take(self, request: Request) -> bool:
        return False

    async def checked(self, called: str) -> None:
        if self._allowed.has_name([called]):
            await self._allowed.check_all([called])

    def to_call(self, called: str) -> str:
        return self._allowed.to_call(called)

    async def confirm(self, request: Request, deadline: float) -> None:
        """Have each owner since `request` was sent drop what it has read of the keys; see `Forwarder`."""
        owner = request.ring.find(request.key)
        while True:
            newer = self.epoch.find(request.key)
            if newer.owned_since == owner.owned_since or not newer.address:
                return
            for each in (request.key, *request.more_keys):
                bucket, key = split_cache_key(each)
                invalidate = cache_pb.InvalidateRequest(key=key, bucket=bucket).SerializeToString()
                remaining = max(deadline - self._clock.now(), MIN_SECONDS)
                await self._forwarder.request(newer.address, INVALIDATE.name, invalidate, remaining)
            owner = newer
