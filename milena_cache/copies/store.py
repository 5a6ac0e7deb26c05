"""Pure. The copies that this node holds of other nodes' dirty writes: by slot and key, with their bytes.

The values are in the journal only. A copy is never uploaded and never served; when this node becomes the owner of a
slot, its copies become dirty entries (`promotion`).

Of the slots that an owner has begun to send (BEGIN), the copies are *unconfirmed* until it sends them again, or
their keys' later writes; END drops what is left of them. They are in a table of their own, so that both cost a step
for each slot, and not for each copy.

The copies have a budget: `max_bytes` of keys, values and overhead, of which `memory_limit` bytes and KEEPING_FREE
may be keys and overhead, which are in memory. They are never evicted: a write that does not fit is not taken. Only
what this node collects as an owner is taken beyond it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from milena_cache.objects.version import Version
from milena_cache.writeback.dirty_table import KEEPING_FREE
from milena_common.cluster.slots import slot_of

# Bytes that a copy takes in memory besides its key.
COPY_OVERHEAD = 512


class Copy(NamedTuple):
    """A copy of a write.

    number: of its record in this node's journal
    size: bytes of its value
    deleted: True for a delete
    damaged: True if the value of its record is damaged
    sure: True if no acknowledged write has superseded it, so that it may be served without a look at S3
    """

    version: Version
    number: int
    size: int
    deleted: bool = False
    damaged: bool = False
    sure: bool = True


def keeping_of(key: bytes) -> int:
    """Return the bytes that the copy of a cache key takes in memory."""
    return len(key) + COPY_OVERHEAD


class CopyStore:
    """The copies of one node. `bytes` and `keeping_bytes` are those of both tables."""

    def __init__(self, max_bytes: int, memory_limit: int) -> None:
        self.max_bytes = max_bytes
        self.memory_limit = memory_limit
        self.bytes = 0
        self.keeping_bytes = 0
        self._number = 0
        self._confirmed: dict[int, dict[bytes, Copy]] = {}
        self._unconfirmed: dict[int, dict[bytes, Copy]] = {}

    def __len__(self) -> int:
        return self._number

    def get(self, key: bytes) -> Copy | None:
        """Return the copy of a cache key, None without one."""
        slot = slot_of(key)
        confirmed, unconfirmed = self._confirmed.get(slot), self._unconfirmed.get(slot)
        found = confirmed.get(key) if confirmed is not None else None
        if found is None and unconfirmed is not None:
            found = unconfirmed.get(key)
        return found

    def is_confirmed(self, key: bytes) -> bool:
        """Return True if there is a copy of `key` that is confirmed."""
        return key in self._confirmed.get(slot_of(key), ())

    def has_room(self, cost: int, keeping: int) -> bool:
        """Return True if copies of `cost` bytes in all, `keeping` of them keys and overhead, may be added."""
        return self.bytes + cost <= self.max_bytes and (
            self.keeping_bytes + keeping <= self.memory_limit + KEEPING_FREE
        )

    @property
    def is_full(self) -> bool:
        """Return True if there is no room for a copy of a hundredth of the budget."""
        return len(self) > 0 and not self.has_room(self.max_bytes // 100, 0)

    def put_copy(self, key: bytes, copy: Copy, *, confirmed: bool = True) -> Copy | None:
        """Make `copy` that of its key, whatever its version; return the one before, whose record is not needed."""
        slot = slot_of(key)
        before = self._pop(slot, key)
        tables = self._confirmed if confirmed else self._unconfirmed
        table = tables.get(slot)
        if table is None:
            tables[slot] = {key: copy}
        else:
            table[key] = copy
        self._number += 1
        self.bytes += keeping_of(key) + copy.size
        self.keeping_bytes += keeping_of(key)
        return before

    def confirm(self, key: bytes) -> None:
        """Confirm the copy of `key`, if there is one."""
        table = self._unconfirmed.get(slot_of(key))
        if table is not None and key in table:
            self.put_copy(key, table[key])

    def pop_copy(self, key: bytes) -> Copy | None:
        """Remove the copy of `key`, and return it; None without one."""
        return self._pop(slot_of(key), key)

    def _pop(self, slot: int, key: bytes) -> Copy | None:
        for tables in (self._confirmed, self._unconfirmed):
            table = tables.get(slot)
            if table is not None and (found := table.pop(key, None)) is not None:
                if not table:
                    del tables[slot]
                self._number -= 1
                self.bytes -= keeping_of(key) + found.size
                self.keeping_bytes -= keeping_of(key)
                return found
        return None

    def begin_slots(self, first: int, last: int) -> None:
        """Make the copies of the slots `first` to `last` unconfirmed."""
        for slot in self._within(self._confirmed, first, last):
            table = self._confirmed.pop(slot)
            known = self._unconfirmed.setdefault(slot, table)
            if known is not table:
                known.update(table)

    def unconfirmed(self, first: int, last: int) -> list[bytes]:
        """Return the keys of the unconfirmed copies of the slots `first` to `last`."""
        slots = self._within(self._unconfirmed, first, last)
        return [key for slot in slots for key in self._unconfirmed[slot]]

    def _within(self, tables: dict[int, dict[bytes, Copy]], first: int, last: int) -> list[int]:
        if last - first < len(tables):
            return [slot for slot in range(first, last + 1) if slot in tables]
        return [slot for slot in tables if first <= slot <= last]

    def doubt(self, slot: int) -> None:
        """Make the copies of `slot` doubtful."""
        for tables in (self._confirmed, self._unconfirmed):
            table = tables.get(slot, {})
            for key, copy in table.items():
                table[key] = copy._replace(sure=False)

    def detach(self, slots: Iterable[int]) -> list[dict[bytes, Copy]]:
        """Remove all copies of `slots`, and return them."""
        tables = [each.pop(slot) for slot in slots for each in (self._confirmed, self._unconfirmed) if slot in each]
        for table in tables:
            self._number -= len(table)
            keeping = sum(map(keeping_of, table))
            self.keeping_bytes -= keeping
            self.bytes -= keeping + sum(copy.size for copy in table.values())
        return tables

    @property
    def slots(self) -> list[int]:
        """Return the slots of which there are copies, ascending."""
        return sorted(self._confirmed.keys() | self._unconfirmed.keys())

    def has_any(self, slot: int) -> bool:
        """Return True if there are copies of `slot`."""
        return slot in self._confirmed or slot in self._unconfirmed

    def in_slot(self, slot: int) -> Iterator[tuple[bytes, Copy]]:
        """Yield key and copy of all copies of `slot`, as they are now."""
        for tables in (self._confirmed, self._unconfirmed):
            yield from list(tables.get(slot, {}).items())
