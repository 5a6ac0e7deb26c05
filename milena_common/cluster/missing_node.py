"""Pure. What a node reports of its writes, and what is remembered of a node that left without handing them over.

The node reports with each Join; the router remembers the last report of a node that is lost, and shows it to
operators. Nodes keep the record with the ring, and give it to a router that starts anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milena_common.api.pb import router_server_pb2 as pb

# Reasons in one report, and characters of each: a report goes with every renewal of a lease.
MAX_REASONS = 8
MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node's own figures.

    `dirty_entries`: acknowledged writes that wait for S3. `dead_letters`: further ones, which S3 refuses for good.
    `degraded`: why an operator should look at the node, as many and as long reasons as a message takes.
    """

    dirty_entries: int
    dead_letters: int = 0
    degraded: tuple[str, ...] = ()

    @property
    def has_writes(self) -> bool:
        """True if there are acknowledged writes that S3 does not have."""
        return bool(self.dirty_entries or self.dead_letters)


@dataclass(frozen=True, slots=True)
class MissingNode:
    """A node that left the ring without handing over its writes.

    - `address`: its address in the ring.
    - `node_id`: the name of its process.
    - `journal_id`: which writes are missing with it; "" where that is unknown.
    - `dirty_entries`: acknowledged writes that waited for S3, as it last reported; None if it never did.
    - `dead_letters`: further ones, which S3 had refused for good.
    - `since`: when it left, in seconds since 1970.
    - `reason`: why it left.
    """

    address: str
    node_id: str
    journal_id: str
    dirty_entries: int | None
    dead_letters: int
    since: float
    reason: str

    @classmethod
    def from_message(cls, message: pb.MissingNode) -> MissingNode:
        return cls(
            message.address,
            message.node_id,
            message.journal_id,
            message.dirty_entries if message.HasField("dirty_entries") else None,
            message.dead_letters,
            message.missing_since,
            message.reason,
        )

    def to_message(self) -> pb.MissingNode:
        return pb.MissingNode(
            address=self.address,
            node_id=self.node_id,
            journal_id=self.journal_id,
            dirty_entries=self.dirty_entries,
            dead_letters=self.dead_letters,
            missing_since=self.since,
            reason=self.reason,
        )

    def described(self, wall: float) -> str:
        """Return one line for an operator; `wall` is the present moment in seconds since 1970."""
        if self.dirty_entries is None:
            writes = "an unknown number of acknowledged writes"
        else:
            dead = f" and {self.dead_letters} dead letters" if self.dead_letters else ""
            writes = f"{self.dirty_entries} acknowledged writes not in S3{dead}"
        away = max(0.0, wall - self.since)
        return f"node {self.address} has been missing for {away:.0f} s ({self.reason}), last reported with {writes}"


def shortened(reasons: Sequence[str]) -> tuple[str, ...]:
    """Return as many of `reasons`, and as much of each, as a report takes."""
    return tuple(reason[:MAX_REASON] for reason in reasons[:MAX_REASONS])
