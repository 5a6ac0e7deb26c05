"""Coordination. Finds out that a node's process has ended, without waiting for the end of its lease.

The stream on which a node renews its lease breaks when its process ends, and also when the network between them
does. So its ports are tried: the kernel of a host that can be reached refuses connections to a port at which no
process listens. A node closes its ports last, after it has handed its lease back; so refused connections at all its
ports, twice, while the ring still has the same process, prove that the process has ended. A dead process serves
nothing, and gives no promises: its slots are released at once.

Silence proves nothing: a node that cannot be reached from here keeps its lease until that ends. Behind a proxy,
which accepts or refuses connections for the node, refused connections prove nothing either: FAST_DEATH=off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from milena_common.cluster.slot_assignment import Member
from milena_common.runtime.clock import Clock
from milena_router.ring.leases import Leases

# Seconds for one attempt to connect, and between the two attempts.
CONNECT_SECONDS = 0.2
PAUSE_SECONDS = 0.1
ATTEMPTS = 2

# Returns True if the process of a member has ended, as far as one observer can say.
Proof = Callable[[Member], Awaitable[bool]]


class FastDeath:
    """The checks in progress, at most one for each address of a member.

    A process has ended if all `proofs` say so. Today this router's own attempts are the only one; what another
    member observes can be a further one.
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
            self._leases.process_exited(member.address, member.node_id)

    def _member(self, address: str, node_id: str) -> Member | None:
        """Return the member, None unless this process is one whose refusal of connections proves something."""
        lease = self._leases.membership.leases.get(address)
        if lease is None or not node_id or lease.member.node_id != node_id or not lease.ring_status.moves:
            return None
        return lease.member


def ports_reject(rejects_connections: Callable[[str, float], Awaitable[bool]], clock: Clock) -> Proof:
    """Return the proof by refused connections; `is_refused` tries to connect to an address for some seconds."""

    async def proof(member: Member) -> bool:
        ports = [member.address, *filter(None, [member.addresses.get("resp")])]
        for attempt in range(ATTEMPTS):
            if attempt:
                await clock.sleep(PAUSE_SECONDS)
            if not all(await asyncio.gather(*(rejects_connections(port, CONNECT_SECONDS) for port in ports))):
                return False
        return True

    return proof
