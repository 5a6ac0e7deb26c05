"""Pure. The part of the membership that all routers of one ring share, as a value, and how one takes it over.

What is shared decides about the ring: the ring with its moves, the members and what they have reported for good,
losses, missing nodes, the cluster. Each router has its own view of the rest: when it has last seen a member's lease
renewed, which rings a member has acknowledged, whether the ring is frozen, how moves progress.

A router tries a change on its own membership, compares the shared part with that before, and goes back until the
change is stored: nothing is published that another router may still have decided otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.slot_assignment import Member, Ring
from milena_router.ring.joining import lasting
from milena_router.ring.losses.missing_nodes import MissingNodes
from milena_router.ring.losses.releases import Loss, Releases
from milena_router.ring.membership import Membership
from milena_router.ring.recovery import Lease, Recovery
from milena_router.ring.ring_status import RingStatus

# The attributes of a Membership: those that are shared, and those that each router has for itself. A new one
# belongs into one of the two, and a shared one into `SharedState` and its message.
SHARED = {
    "cluster_id",
    "default_bucket",
    "leases",
    "missing",
    "plan_at",
    "progress",
    "promise_seconds",
    "recovery",
    "releases",
    "ring",
}
LOCAL = {"_avoided", "failing", "waiting", "_balanced", "_checked_at", "_new_cluster_id", "frozen", "lease_seconds"}


@dataclass(frozen=True)
class MemberState:
    """A member, as its lease has it: see `Lease`. `acknowledged` alone is no reason to store the state."""

    member: Member
    status: RingStatus
    replaced_id: str = ""
    default_bucket: str = ""
    cluster_id: str = ""
    member_epoch: int = 0
    acknowledged: int = field(default=0, compare=False)


@dataclass(frozen=True)
class SharedState:
    """The shared part; times are seconds of this router's clock. `recovering`: there is no ring yet."""

    ring: Ring
    default_bucket: str
    cluster_id: str
    members: tuple[MemberState, ...]
    missing: tuple[MissingNode, ...]
    losses: tuple[Loss, ...]
    recovering: bool
    promise_seconds: float
    plan_at: float
    abandoned: Mapping[tuple[str, str], int]


def shared_state(membership: Membership) -> SharedState:
    """Return the shared part of `membership`, which later changes of it do not touch."""
    return SharedState(
        membership.ring,
        membership.default_bucket,
        membership.cluster_id,
        tuple(_member_state(lease) for _, lease in sorted(membership.leases.items())),
        membership.missing.all(),
        Releases(membership.releases.all()).all(),
        membership.recovery is not None,
        membership.promise_seconds,
        membership.plan_at,
        dict(membership.progress.abandoned_moves),
    )


def _member_state(lease: Lease) -> MemberState:
    return MemberState(
        lease.member,
        lasting(lease.ring_status),
        lease.replaced_id,
        lease.default_bucket,
        lease.cluster_id,
        lease.member_epoch,
        lease.acknowledged,
    )


def take_over(membership: Membership, state: SharedState, now: float, recovery: Recovery) -> None:
    """Make `state` the shared part of `membership`; `recovery` is a new one, for a ring that must be recovered.

    A member that is new here has a whole lease from now on: another router may just have granted it.
    """
    if not state.recovering:
        membership.recovery = None
    elif membership.recovery is None:
        membership.recover_again(recovery)
    membership.ring = state.ring
    membership.default_bucket = state.default_bucket
    membership.cluster_id = state.cluster_id
    membership.missing = MissingNodes(state.missing)
    membership.releases = Releases(state.losses)
    membership.promise_seconds = max(membership.lease_seconds, state.promise_seconds)
    membership.plan_at = state.plan_at
    membership.progress.abandoned_moves = Counter(state.abandoned)
    known, membership.leases = membership.leases, {}
    for each in state.members:
        address = each.member.address
        lease = known.get(address)
        if lease is None or lease.member.node_id != each.member.node_id:
            lease = Lease(each.member, now, now + membership.promise_seconds)
        # The state has the number of the status that changed it last. This router may have heard of later ones.
        number = max(each.status.number, lease.ring_status.number)
        lease.member, lease.ring_status = each.member, replace(each.status, number=number)
        lease.replaced_id, lease.default_bucket = each.replaced_id, each.default_bucket
        lease.cluster_id, lease.member_epoch = each.cluster_id, each.member_epoch
        lease.acknowledged = max(lease.acknowledged, each.acknowledged)
        membership.leases[address] = lease
    membership.frozen &= membership.leases.keys()


def copied(membership: Membership) -> dict[str, Any]:
    """Return all attributes of `membership`, with copies of those that it changes in place, for `restore`."""
    progress = copy(membership.progress)
    progress.abandoned_moves = Counter(progress.abandoned_moves)
    return {
        **vars(membership),
        "leases": {address: replace(lease) for address, lease in membership.leases.items()},
        "missing": MissingNodes(membership.missing.all()),
        "releases": Releases(membership.releases.all()),
        "frozen": {*membership.frozen},
        "progress": progress,
    }


def restore(membership: Membership, attributes: dict[str, Any]) -> None:
    """Give `membership` the attributes of a `copied` before, once."""
    vars(membership).update(attributes)
