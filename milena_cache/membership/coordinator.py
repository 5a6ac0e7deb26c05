"""Pure. The Protocol of the coordinator: the part of the cluster that holds the ring and grants leases in it.

A node needs three things of it: a lease that it renews, a way to leave, and the ring, followed as it changes. Today
routers are the coordinators (`milena_cache.membership.router_coordinator`).

A lease counts from the time at which the request for it was *sent*, by the node's own clock. Counted from the
reply, it would outlast the coordinator's:

1. the coordinator grants 6 s and sends its reply, which takes 5 s;
2. the node counts its 6 s from then on;
3. the coordinator's 6 s are over, and another node gets the slots;
4. for 5 s both nodes serve them.

So only the implementation of a request can determine when the lease began: it returns that as `Lease.sent_at`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_map import SlotMap


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """A node as it describes itself to a coordinator.

    address: its gRPC address, host:port
    node_id: the id of this process
    weight: its share of the slots relative to other nodes
    addresses: its further addresses by protocol
    default_bucket: the S3 bucket of keys without one
    journal_id: the id of its journal, "" if it has none
    copies: how many journals an acknowledged write must be in, 1 to 3; 0 if this node makes and keeps no copies
    zone: where it runs, "" if unknown: copies are kept in another zone
    """

    address: str
    node_id: str
    weight: float
    addresses: Mapping[str, str]
    default_bucket: str
    journal_id: str = ""
    copies: int = 0
    zone: str = ""


@dataclass(frozen=True, slots=True)
class RingStatus:
    """A node's part in the changing ring.

    acknowledged_epoch: it promises no node any more to stand by a ring older than this one
    taken: the slots that it has taken over, as first and last slot and the epoch since which it owns them, while
    the ring still has them as pending
    leaving: True if all its slots should move to other nodes, after which it leaves
    foreign_writes: True if it has, or may have, writes of other nodes' slots that it has not handed in yet
    completed: of its slots, the holders that the ring lists as filling and that have all copies now, as first and
    last slot and the holder's address, in ascending order; while the ring lists them so
    failed_holders: of its slots, the holders that do not follow, likewise; while the ring lists them
    copies_epoch: the epoch of the ring by which these were found, 0 if there are none
    """

    acknowledged_epoch: int = 0
    taken: tuple[tuple[int, int, int], ...] = ()
    leaving: bool = False
    foreign_writes: bool = False
    completed: tuple[tuple[int, int, str], ...] = ()
    failed_holders: tuple[tuple[int, int, str], ...] = ()
    copies_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Renewal:
    """A node's request to become a member of the ring, or to remain one.

    node: the description of the node
    cluster_id: the cluster that it belongs to, "" if it may join any
    seen_epoch: the greatest epoch that it has seen, of a ring or in the version of a write; new rings get greater
    ones
    ring_epoch: the greatest epoch of a ring that this process has received, 0 if none
    ring: the newest ring that it has, empty if none, for a coordinator that has lost its own
    longest_lease: the longest lease that it was granted, in seconds, 0 if none
    status: its dirty writes, and why an operator should look at it
    ring_status: its part in the changing ring
    status_number: of these two, greater than all earlier ones of the process, to whichever router
    """

    node: NodeDescription
    cluster_id: str
    seen_epoch: int
    ring_epoch: int
    ring: SlotMap
    longest_lease: float
    status: NodeStatus
    ring_status: RingStatus = RingStatus()
    status_number: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was granted.

    seconds: how long it is
    sent_at: when the request for it was sent, in seconds of the node's monotonic clock
    epoch: the ring's; 0 if the coordinator publishes none yet
    ring_size: the number of nodes in the ring
    cluster_id: the cluster's id, "" if it is not known yet
    absent_nodes: True if a node that is missing, or has foreign writes, may have older writes than S3 has
    """

    seconds: float
    sent_at: float
    epoch: int
    ring_size: int
    cluster_id: str
    absent_nodes: bool = False

    @property
    def expires_at(self) -> float:
        """Return when it expires, by the node's monotonic clock: before it does for the coordinator."""
        return self.sent_at + self.seconds


class Coordinator(Protocol):
    """A connection of one node to one coordinator."""

    @property
    def address(self) -> str:
        """Return its address, host:port, for messages."""

    async def renew(self, renewal: Renewal) -> Lease:
        """Join the ring, or renew the lease in it; return within a bounded time.

        Raises MilenaError: FailedPrecondition if the ring is not for this node (another bucket or cluster). After
        any other error the node may or may not have become a member.
        """

    async def leave_ring(self, node: NodeDescription, status: NodeStatus, timeout: float) -> None:
        """Give the lease back, within `timeout` seconds; nothing happens if another process has the address.

        Raises MilenaError.
        """

    async def follow_ring(self, on_change: Callable[[SlotMap], None], on_disconnected: Callable[[], None]) -> None:
        """Follow the ring until cancelled: call `on_change` with the present one, and with each newer one.

        Rings may be left out, and none is older than one before. While the coordinator cannot be reached this
        waits; `on_disconnected` is called each time it was lost, for what the node then does at once.
        """

    async def close(self) -> None:
        """End the connection. Later calls raise FailedPrecondition."""
