"""Coordination. The nodes of the ring that have an S3 endpoint, the owner of a key first."""

from __future__ import annotations

from itertools import count

from milena_common.api.errors import AccessDenied, InvalidRequest, NoNodes, TryAgain
from milena_common.api.keys import cache_key, canonical_bucket
from milena_common.cluster.member import S3_HTTP, S3_HTTPS, Member
from milena_common.network.addresses import parse_address
from milena_common.tls.outgoing import Outgoing
from milena_router.forwarding.forward import Forwarder
from milena_router.forwarding.join_addresses import JoinAddresses
from milena_router.ring.leases import Leases
from milena_router.s3.endpoint import S3Node


class RingNodes:
    """The nodes of the newest ring. `outgoing`: how they are called; `allowed`: the addresses that may be."""

    def __init__(self, leases: Leases, forwarder: Forwarder, outgoing: Outgoing, allowed: JoinAddresses) -> None:
        self._leases = leases
        self._forwarder = forwarder
        self._outgoing = outgoing
        self._allowed = allowed
        self._turn = count()

    async def nodes_for(self, bucket: str, key: bytes) -> list[S3Node]:
        """Return the nodes, first the owner of the key. Without a key, or an owner, all take turns."""
        membership = self._leases.membership
        members = membership.ring.members
        if not members:
            return []
        start = next(self._turn) % len(members)
        ordered = [*members[start:], *members[:start]]
        if key:
            try:
                owner = self._forwarder.owner(
                    cache_key(canonical_bucket(bucket, membership.default_bucket), key)
                ).address
            except (NoNodes, TryAgain):
                owner = ""  # whichever node gets it waits for one
            ordered.sort(key=lambda member: member.address != owner)
        found = [await self._endpoint_of(member) for member in ordered]
        return [node for node in found if node is not None]

    async def _endpoint_of(self, member: Member) -> S3Node | None:
        """Return the endpoint of a node; None if it has none, or it must not be called."""
        called, certificates = self._outgoing.choose(
            member.addresses.get(S3_HTTP, ""), member.addresses.get(S3_HTTPS, "")
        )
        if not called:
            return None
        try:
            if self._allowed.has_name([called]):
                await self._allowed.check_all([called])
            where = self._allowed.to_call(called)
        except (AccessDenied, InvalidRequest):
            return None
        return S3Node(where, certificates, "" if where == called else parse_address(called).host)
