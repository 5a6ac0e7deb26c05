"""Pure. What this node's journal is for each slot, as its metadata says it, so that a restart knows.

A record says by a flag whether it was written as a copy of another node's write. That changes for all records of a
slot at once: when the owner of a slot is lost, copies become this node's own dirty writes, and when a slot is
handed over, own dirty writes become copies. The records stay as they are. Instead the metadata has, for ranges of
slots, what all records up to a number are; later records are what their flag says.

It also has of which slots the journal is *whole*: it has everything that was acknowledged of the slot and is not in
S3, as that of the owner. Such a slot needs no collecting when a ring gives it to this node.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import IntEnum

from milena_cache.membership.ownership import COLLECTED, WHOLE
from milena_cache.membership.slot_epochs import SlotEpochs

# The key in the journal's metadata.
NAME = "copies"


class Role(IntEnum):
    """What records are.

    OWN: this node's own writes, also those that were written as copies
    COPY: copies, also those that were written as own writes
    DROPPED: own writes, and those that were written as copies are not needed any more
    """

    OWN = 0
    COPY = 1
    DROPPED = 2


class JournalRoles:
    """The roles of one journal's records. `text`: what `to_text` returned before the restart, "" for none.

    whole: the slots of which the journal is whole, WHOLE or COLLECTED
    """

    def __init__(self, text: str = "") -> None:
        self.whole = SlotEpochs()
        # By slot four times the number up to which records have the role, plus the role.
        self._roles = SlotEpochs()
        known = json.loads(text) if text else {}
        for first, last in known.get("whole", ()):
            self.whole.add(first, last, WHOLE)
        for first, last in known.get("collected", ()):
            self.whole.add(first, last, COLLECTED)
        for first, last, role in known.get("roles", ()):
            self._roles.add(first, last, role)

    def role(self, slot: int, number: int, *, copy: bool) -> Role:
        """Return what the record `number` of a key of `slot` is; `copy`: it was written as a copy.

        DROPPED only for a copy.
        """
        for _, _, role in self._roles.within(slot, slot):
            if number <= role >> 2:
                found = Role(role & 3)
                return Role.OWN if found is Role.DROPPED and not copy else found
        return Role.COPY if copy else Role.OWN

    def set_role(self, first: int, last: int, number: int, role: Role) -> None:
        """Record what all records up to `number` of these slots are."""
        self._roles.add(first, last, 4 * number + role)

    def keep(self, slots: Iterable[int]) -> None:
        """Forget the roles of all but these slots: the others have no record that is older."""
        kept = SlotEpochs()
        for slot in slots:
            for _, _, role in self._roles.within(slot, slot):
                kept.add(slot, slot, role)
        self._roles = kept

    def to_text(self) -> str:
        """Return the metadata for the journal to keep."""
        # The versions before this one know no COLLECTED: all are `whole` to them.
        known = {
            "whole": [[first, last] for first, last, _ in self.whole],
            "collected": [[first, last] for first, last, how in self.whole if how == COLLECTED],
            "roles": [list(run) for run in self._roles],
        }
        return json.dumps(known, separators=(",", ":"))
