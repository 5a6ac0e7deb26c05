"""Pure. Rejects a second live node with the journal of another one.

A node recognises a copied journal by the inode of its file, and does not start on it. Copies that keep the inode (a
snapshot of a volume or of a machine, an image of a disk) pass that check, and so do two nodes whose copies were
both adopted. Only the router has reports of both nodes.

The first node stays, because it renews its lease. The interleaving that this avoids: a copy joins, gets slots, and
its uploads overwrite writes that the original has acknowledged since. A node that returns with its own journal at
another address, before the lease of its last address expires, waits for the end of that lease: until then it cannot
be distinguished from a copy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from milena_common.api.errors import FailedPrecondition
from milena_common.cluster.slot_assignment import Member
from milena_router.ring.recovery import Lease


def check(member: Member, leases: Mapping[str, Lease]) -> None:
    """Raise FailedPrecondition if a node at another address than `member`'s holds a lease with the same journal."""
    if not member.journal_id:
        return
    for address, lease in leases.items():
        if address != member.address and lease.member.journal_id == member.journal_id:
            raise FailedPrecondition(
                f"journal_id: {member.address} has journal {member.journal_id}, and so has {address}, whose lease "
                "runs. Two nodes on two copies of one journal overwrite newer objects with older ones: stop "
                f"{member.address} and start it with an empty JOURNAL_DIR; or, if it is to take the place of "
                f"{address}, stop that one and wait, {member.address} joins by itself then"
            )


def without_copies(leases: Mapping[str, Lease], last: Collection[Member]) -> dict[str, Lease]:
    """Return `leases` with one node for each journal: the member of the last ring, else the first to join.

    `leases`, by address, are those granted while the last ring was not known, and `last` its members.
    """
    known = {(member.address, member.journal_id) for member in last}
    holders: dict[str, str] = {}
    for address, lease in sorted(leases.items(), key=lambda each: each[1].since):
        journal = lease.member.journal_id
        if journal and (journal not in holders or (address, journal) in known):
            holders[journal] = address
    return {
        address: lease
        for address, lease in leases.items()
        if holders.get(lease.member.journal_id, address) == address
    }
