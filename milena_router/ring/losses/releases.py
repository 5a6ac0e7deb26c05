"""Pure. Which epochs are released: until when slots that were taken from a lost process may still be served by it.

A process is lost when its lease ends at this router, when another process takes its place, or when a person
removes it. The ring after that, at epoch E, gives its slots to others; but the lost process may still serve them:
it holds a lease until that is over, and longer if all other members of its ring promised to stand by it. So a node
serves no slot that it owns since E before the router says that E is released.

**The released epoch** is the greatest one such that, for each ring up to it which took slots from a lost process,
that process's lease is provably over. Rings without losses are released at once. A loss at E is proved by one of:

- The lease's time has passed, every other member of the ring before E has acknowledged E or a later ring, and one
  of them is in every ring that the lost process can have. A node acknowledges a ring when the promises that it gave
  for older ones are over, and gives none for them any more; and a lease is extended by promises of *all* members
  only. A member that is lost itself acknowledges nothing: for it, its lease and one more lease (a promise) must
  have passed.
- The lost process itself has acknowledged E: it is back, and has given up the slots.
- A process with the same journal has joined at its address: a journal has one process at a time. If slots were
  moving from or to it, their destinations acknowledge E too, when they have handed in what they have of these.
- A person wrote it off (`milena leave --forget`).

A node that leaves by itself, or whose process is known to have ended, serves nothing any more: that is no loss.

Interleaving that the member in every ring (the *witness*) avoids: (1) X and Y lose the router; (2) Z joins, and
acknowledges its ring; (3) the leases of X and Y end here. X and Y still have the ring of two, in which they promise
each other to stand by it, again and again; Z is not asked. No time proves that they have stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from milena_common.cluster.slot_assignment import Member

# Losses without proof that are kept apart. Beyond it the two oldest ones become one, with the conditions of both.
MAX_LOSSES = 1024


@dataclass(slots=True)
class Loss:
    """A lost process whose lease is not provably over.

    address, node_id, journal_id: of the process
    epoch: of the first ring without it
    over_at: when its lease, and promises of members that are lost too, have passed, in the router's seconds
    awaited: addresses of the members of the ring before that have not acknowledged `acknowledge` or a later ring
    witnesses: addresses of those that are in every ring that the process can have; None if none is needed
    acknowledge: the epoch to acknowledge, `epoch` if 0
    witnessed: True if a witness has acknowledged, or has left
    """

    address: str
    node_id: str
    journal_id: str
    epoch: int
    over_at: float
    awaited: set[str]
    witnesses: Collection[str] | None = None
    acknowledge: int = 0
    witnessed: bool = False

    def __post_init__(self) -> None:
        self.acknowledge = self.acknowledge or self.epoch

    def is_proved(self, now: float) -> bool:
        """True if no process can serve the slots that this loss took."""
        return self.over_at <= now and not self.awaited and (self.witnesses is None or self.witnessed)

    def described(self) -> str:
        """Return what the proof waits for, for operators."""
        if self.awaited:
            what = f"the acknowledgement of {', '.join(sorted(self.awaited)[:5])}"
        elif self.witnesses is not None and not self.witnessed:
            what = "its return; if it will not come back, run `milena leave --forget` with its address"
        else:
            what = "the end of its lease"
        node = self.address or "of an earlier router"
        return f"slots of the lost node {node} are not served yet: waits for {what}"

    def combine(self, other: Loss) -> None:
        """Add the conditions of `other`."""
        self.epoch = min(self.epoch, other.epoch)
        self.acknowledge = max(self.acknowledge, other.acknowledge)
        self.over_at = max(self.over_at, other.over_at)
        self.awaited |= other.awaited
        self.witnessed = (self.witnessed or self.witnesses is None) and (other.witnessed or other.witnesses is None)
        if self.witnesses is None or other.witnesses is None:
            self.witnesses = other.witnesses if self.witnesses is None else self.witnesses
        else:
            self.witnesses = set(self.witnesses) & set(other.witnesses)


class Releases:
    """The losses without proof. Times are the router's monotonic seconds."""

    def __init__(self, losses: Iterable[Loss] = ()) -> None:
        self._losses = [replace(loss, awaited={*loss.awaited}) for loss in losses]

    def __len__(self) -> int:
        return len(self._losses)

    def all(self) -> tuple[Loss, ...]:
        """Return the losses without proof, in the order of their epochs."""
        return tuple(sorted(self._losses, key=lambda loss: loss.epoch))

    def released(self, ring_epoch: int) -> int:
        """Return the released epoch while the ring has `ring_epoch`."""
        return min((loss.epoch - 1 for loss in self._losses), default=ring_epoch)

    def is_lost(self, address: str, node_id: str) -> bool:
        """True if this process is lost and may still hold a lease."""
        return any((loss.address, loss.node_id) == (address, node_id) for loss in self._losses)

    def add(self, loss: Loss) -> None:
        """Record a loss. A process that is lost twice has one record, with the conditions of both."""
        known = next((each for each in self._losses if node_of(each) == node_of(loss) and loss.node_id), None)
        if known is not None:
            # Its newer acknowledgement is the better bound of the rings that it can have.
            known.witnesses, known.witnessed = loss.witnesses, False
            known.combine(loss)
            return
        self._losses.append(loss)
        if len(self._losses) > MAX_LOSSES:
            first, second, *self._losses = self.all()
            first.combine(second)
            first.address = first.node_id = first.journal_id = ""
            self._losses.append(first)

    def acknowledged(self, address: str, node_id: str, epoch: int) -> None:
        """Record that the process `node_id` at `address` promises nothing for rings before `epoch` any more."""
        kept = []
        for loss in self._losses:
            if node_id and node_of(loss) == (address, node_id) and epoch >= loss.acknowledge:
                continue
            if address in loss.awaited and epoch >= loss.acknowledge:
                loss.awaited.discard(address)
                loss.witnessed |= address in (loss.witnesses or ())
            kept.append(loss)
        self._losses = kept

    def member_lost(self, address: str, promises_end: float) -> None:
        """Record that the member at `address` is lost; the promises that it gave end at `promises_end`."""
        for loss in self._losses:
            if address in loss.awaited:
                loss.awaited.discard(address)
                loss.over_at = max(loss.over_at, promises_end)

    def promised(self, address: str, promises_end: float) -> None:
        """Record that the lost process at `address` may hold promises until `promises_end`."""
        for loss in self._losses:
            if loss.address == address:
                loss.over_at = max(loss.over_at, promises_end)

    def member_exited(self, address: str, promises_end: float) -> None:
        """Record that the process at `address` left or ended: it gives no promise any more."""
        for loss in self._losses:
            if address in loss.awaited:
                loss.witnessed |= address in (loss.witnesses or ())
        self.member_lost(address, promises_end)

    def restarted(self, member: Member) -> None:
        """Record that `member` joined: processes that had its journal at its address before have ended."""
        self._losses = [
            loss
            for loss in self._losses
            if not member.journal_id
            or (loss.address, loss.journal_id) != (member.address, member.journal_id)
            or loss.node_id == member.node_id
        ]

    def write_off(self, address: str) -> bool:
        """Record a person's word that no process of the lost node at `address` runs; False if none is lost."""
        kept = [loss for loss in self._losses if loss.address != address]
        found = len(kept) < len(self._losses)
        self._losses = kept
        return found

    def drop_proved(self, now: float) -> None:
        """Forget the losses that are proved."""
        self._losses = [loss for loss in self._losses if not loss.is_proved(now)]


def node_of(loss: Loss) -> tuple[str, str]:
    """Return the address and the process id of the lost process."""
    return loss.address, loss.node_id
