"""Pure. The nodes that left the ring without handing over: what an operator must not lose sight of.

A node whose lease ended may have acknowledged writes in its journal that S3 does not have, and nothing else tells
of them: in Kubernetes its scrape target is gone as well. It is remembered until its journal is back in the ring, at
whatever address, or until an operator writes it off. A node that hands over (its writes are in S3 when it leaves)
is not missing.

The journal's id decides what is missing and what has come back. A pod gets another address, and another pod gets
its address. Where an id is not known, from an older node or one that is no Milena, the address decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf

from milena_common.cluster.missing_node import MissingNode, NodeStatus
from milena_common.cluster.slot_assignment import Member

# As many as the ring has members at most. Beyond it, those that are known to have the fewest writes go first.
MAX_MISSING = 256


class MissingNodes:
    """The missing nodes, the one that has been missing for the longest first."""

    def __init__(self) -> None:
        self._nodes: list[MissingNode] = []

    def __len__(self) -> int:
        return len(self._nodes)

    def all(self) -> tuple[MissingNode, ...]:
        return tuple(self._nodes)

    def lost(
        self, member: Member, node_status: NodeStatus | None, present: Collection[Member], wall: float, reason: str
    ) -> None:
        """Remember `member`, which is gone, unless its journal is at one of the `present` members.

        `node_status` is its last one, None if it made none; `wall` in seconds since 1970.
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
        """Remember what nodes know of the router before, except what is known here already, or `present`."""
        for node in known:
            if not any(_replaces(node, each) for each in self._nodes):
                self._add(node, present)

    def returned(self, member: Member) -> None:
        """Forget the node that `member` is: its journal is back in the ring."""
        self._nodes = [node for node in self._nodes if not _is_same(node, member)]

    def write_off(self, address: str) -> bool:
        """Forget what was at `address`, written off by an operator; False if nothing was."""
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
                    return  # less is known now
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
    """True if `node` is a newer record of what `known` is."""
    if node.journal_id or known.journal_id:
        return node.journal_id == known.journal_id
    return node.address == known.address


def _writes(node: MissingNode) -> float:
    return inf if node.dirty_entries is None else node.dirty_entries + node.dead_letters
