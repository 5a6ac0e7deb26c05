"""Pure. The records of nodes that left the ring without handing over their writes, for operators.

A node whose lease expired may have acknowledged writes in its journal that S3 does not have, and nothing else shows
them: in Kubernetes its scrape target is gone as well. Its record is kept until its journal is back in the ring, at
any address, until it has handed its writes in to their owners after all, or until an operator writes it off. A node
that hands over (its writes are in S3, or at their next owners, when it leaves) is not missing.

The journal's id identifies a missing node and its return: a pod gets another address, and another pod gets its
address. Where the id is unknown, as for nodes of older versions, the address decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf

from milena_common.cluster.missing_node import MissingNode, NodeStatus
from milena_common.cluster.slot_assignment import Member

# Beyond it, the records with the fewest known writes are dropped first.
MAX_MISSING = 256


class MissingNodes:
    """The missing nodes, the longest missing one first."""

    def __init__(self, nodes: Iterable[MissingNode] = ()) -> None:
        self._nodes = [*nodes]

    def __len__(self) -> int:
        return len(self._nodes)

    def all(self) -> tuple[MissingNode, ...]:
        return tuple(self._nodes)

    def add_lost(
        self, member: Member, node_status: NodeStatus | None, present: Collection[Member], wall: float, reason: str
    ) -> None:
        """Record `member`, which is gone, unless its journal is at one of the `present` members.

        `node_status` is its last report, None if it sent none; `wall` in seconds since 1970.
        """
        self._add(
            MissingNode(
                member.address,
                member.node_id,
                member.journal_id,
                node_status.dirty_entries if node_status else None,
                node_status.dead_letters if node_status else 0,
                wall,
                reason,
            ),
            present,
        )

    def restore(self, known: Iterable[MissingNode], present: Collection[Member]) -> None:
        """Add the records that nodes kept from the previous router, except those known here or `present`."""
        for node in known:
            if not any(_replaces(node, each) for each in self._nodes):
                self._add(node, present)

    def returned(self, member: Member) -> None:
        """Remove the record of `member`: its journal is back in the ring."""
        self._nodes = [node for node in self._nodes if not _is_same(node, member)]

    def handed_in(self, address: str, node_id: str) -> bool:
        """Remove the record of the process `node_id` at `address`, as owners have its writes; False if none."""
        kept = [node for node in self._nodes if (node.address, node.node_id) != (address, node_id)]
        found = len(kept) < len(self._nodes)
        self._nodes = kept
        return found

    def write_off(self, address: str) -> bool:
        """Remove the record at `address`, written off by an operator; False if there is none."""
        kept = [node for node in self._nodes if node.address != address]
        found = len(kept) < len(self._nodes)
        self._nodes = kept
        return found

    def _add(self, node: MissingNode, present: Collection[Member]) -> None:
        if any(_is_same(node, member) for member in present):
            return
        for each in self._nodes:
            if _replaces(node, each):
                if node.dirty_entries is None and each.dirty_entries is not None:
                    return  # the new record has less information
                self._nodes.remove(each)
                break
        self._nodes.append(node)
        self._nodes.sort(key=lambda each: each.since)
        if len(self._nodes) > MAX_MISSING:
            self._nodes.remove(min(self._nodes, key=_writes))


def _is_same(node: MissingNode, member: Member) -> bool:
    if node.journal_id and member.journal_id:
        return node.journal_id == member.journal_id
    return node.address == member.address


def _replaces(node: MissingNode, known: MissingNode) -> bool:
    """True if `node` is a newer record of the same node as `known`."""
    if node.journal_id or known.journal_id:
        return node.journal_id == known.journal_id
    return node.address == known.address


def _writes(node: MissingNode) -> float:
    return inf if node.dirty_entries is None else node.dirty_entries + node.dead_letters
