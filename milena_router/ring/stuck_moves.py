"""Pure. Finds moves that make no progress, so that the router abandons them and plans the next ones.

A move is stuck if its destination has taken over no slot of it for so many leases. It may only be slow: its owner
has a large backlog to send, or waits for uploads to a slow S3. Each time that a move between the same two nodes is
abandoned, the next one gets twice as long, up to a bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from milena_common.cluster.slot_assignment import Ring
from milena_common.cluster.slot_runs import Run, overlaps

# Leases without progress after which a move is stuck, the first time; and how often that is doubled at most.
STUCK_LEASES = 6
MAX_DOUBLINGS = 5


class StuckMove(NamedTuple):
    """The slots that are left of a move between two nodes, by their addresses, that was planned at `epoch`."""

    owner: str
    destination: str
    epoch: int
    slots: tuple[Run, ...]


class StuckMoves:
    """The progress of the moves of a ring. Times are the router's monotonic seconds.

    abandoned_slots: how many slots of moves were abandoned
    """

    def __init__(self, lease_seconds: float) -> None:
        self.abandoned_slots = 0
        self._stuck_seconds = STUCK_LEASES * lease_seconds
        self._progress: dict[tuple[str, str, int], tuple[int, float]] = {}  # slots that are left, and since when
        self.abandoned_moves: Counter[tuple[str, str]] = Counter()  # by owner and destination

    def find(self, ring: Ring, now: float) -> list[StuckMove]:
        """Return the moves in progress of `ring` that are stuck. Call it several times per lease."""
        moves: dict[tuple[str, str, int], list[Run]] = {}
        for first, last, move, owned in overlaps(ring.pending, ring.ranges()):
            key = (owned.address, move.address, move.owned_since)
            moves.setdefault(key, []).append(move._replace(first=first, last=last))
        before, self._progress = self._progress, {}
        stuck = []
        for key, slots in moves.items():
            left = number_of(slots)
            known, since = before.get(key, (left, now))
            since = since if left >= known else now
            self._progress[key] = left, since
            if now - since >= self._stuck_seconds * 2 ** min(self.abandoned_moves[key[:2]], MAX_DOUBLINGS):
                stuck.append(StuckMove(*key, tuple(slots)))
        return stuck

    def retry_after(self) -> float:
        """Return how many seconds after moves were abandoned the next ones are planned, unless a member changes."""
        return self._stuck_seconds

    def abandoned(self, move: StuckMove, number: int, members: Iterable[str]) -> None:
        """Record that `number` slots of `move` were abandoned; `members` are the addresses of the ring's nodes."""
        present = set(members)
        for pair in [pair for pair in self.abandoned_moves if not present.issuperset(pair)]:
            del self.abandoned_moves[pair]
        self.abandoned_moves[move.owner, move.destination] += 1
        self.abandoned_slots += number


def number_of(runs: Iterable[Run]) -> int:
    """Return how many slots are in `runs`."""
    return sum(last + 1 - first for first, last, _, _ in runs)
