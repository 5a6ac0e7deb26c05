"""Coordination. Finds out that a node's process has ended, without waiting for the end of its lease.

The stream on which a node renews its lease breaks when its process ends, and also when the network between them
does. So its ports are tried: the kernel of a host that can be reached refuses connections to a port at which no
process listens. A node closes its ports last, after it has handed its lease back; so refused connections at all its
ports, twice, while the ring still has the same process, prove that the process has ended. Another member has to
find the same: a firewall, or another machine with the node's IP address, refuses connections too, and seldom for
both of them. A dead process serves nothing, and gives no promises: its slots are released at once.

A process that is killed may still accept connections milliseconds after its stream has broken, since the kernel
closes its sockets one after the other. So ports that accept connections are tried again. Otherwise a ring of one
node would be frozen, with no member that notices later.

Silence proves nothing: a node that cannot be reached from here keeps its lease until that ends. Behind a proxy,
which accepts or refuses connections for the node, refused connections prove nothing either: FAST_DEATH=off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from milena_common.api.errors import MilenaError
from milena_common.api.methods import CHECK_MEMBER
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.cluster.member import GRPC_TLS, RESP, RESP_TLS
from milena_common.cluster.slot_assignment import Member
from milena_common.network.exited import PROOF_SECONDS, RejectsConnections
from milena_common.network.exited import ports_reject as all_reject
from milena_common.runtime.clock import Clock
from milena_router.ring.leases import Leases

log = logging.getLogger(__name__)

# So many other members are called, those that were heard last; one that does not reply in time is left out.
WITNESSES = 3
REPLY_SECONDS = PROOF_SECONDS + 0.2
# How often the ports of one process are tried, and the seconds in between.
TRIES = 3
BETWEEN_SECONDS = 0.15

# Returns True if the process of a member has ended, as far as one observer can say.
Proof = Callable[[Member], Awaitable[bool]]
# Returns the response of the node at an address to a method's request, within so many seconds. Raises MilenaError.
Call = Callable[[str, str, bytes, float], Awaitable[bytes]]


class FastDeath:
    """The checks in progress, at most one for each address of a member.

    A process has ended if all `proofs` say so, which are tried one after the other.
    """

    def __init__(self, leases: Leases, proofs: Sequence[Proof]) -> None:
        self._leases = leases
        self._proofs = proofs
        self._checks: dict[str, asyncio.Task[None]] = {}

    def stream_closed(self, address: str, node_id: str) -> None:
        """Check the process `node_id` at `address`, whose stream of renewals has ended; in the background."""
        member = self._member(address, node_id)
        if member is not None and address not in self._checks:
            check = self._checks[address] = asyncio.get_running_loop().create_task(self._check(member))
            check.add_done_callback(lambda _: self._checks.pop(address, None))

    async def close(self) -> None:
        """End all checks."""
        checks = [*self._checks.values()]
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)

    async def _check(self, member: Member) -> None:
        for proof in self._proofs:
            if not await proof(member):
                return
        # Another process may have joined at the address meanwhile.
        if self._member(member.address, member.node_id) is not None:
            try:
                await self._leases.request_exit(member.address, member.node_id)
            except MilenaError as error:  # its lease ends, too
                log.info("node %s has ended, which could not be recorded: %s", member.address, error)

    def _member(self, address: str, node_id: str) -> Member | None:
        """Return the member, None unless this process is one whose refusal of connections proves something."""
        lease = self._leases.membership.leases.get(address)
        if lease is None or not node_id or lease.member.node_id != node_id or not lease.ring_status.moves:
            return None
        return lease.member


def ports_reject(rejects_connections: RejectsConnections, clock: Clock) -> Proof:
    """Return the proof by connections that this router is refused."""

    async def proof(member: Member) -> bool:
        others = (member.addresses.get(name, "") for name in (RESP, RESP_TLS, GRPC_TLS))
        ports = list(dict.fromkeys([member.address, *filter(None, others)]))
        for number in range(TRIES):
            if number:
                await clock.sleep(BETWEEN_SECONDS)
            if await all_reject(ports, rejects_connections, clock.sleep):
                return True
        return False

    return proof


def members_confirm(leases: Leases, call: Call) -> Proof:
    """Return the proof by other members that are refused connections: one at least, and all that reply.

    A ring without other members needs none.
    """

    async def proof(member: Member) -> bool:
        others = [lease for lease in leases.membership.leases.values() if lease.member.address != member.address]
        others.sort(key=lambda lease: -lease.heard_at)
        request = cache_pb.CheckMemberRequest(address=member.address, node_id=member.node_id).SerializeToString()
        replies = await asyncio.gather(
            *(_reply(call, lease.member.address, request) for lease in others[:WITNESSES])
        )
        return all(reply is not False for reply in replies) and (not others or True in replies)

    return proof


async def _reply(call: Call, address: str, request: bytes) -> bool | None:
    """Return what the member at `address` has found; None if it does not reply."""
    try:
        response = await call(address, CHECK_MEMBER.name, request, REPLY_SECONDS)
    except MilenaError:
        return None
    return cache_pb.CheckMemberResponse.FromString(response).exited
