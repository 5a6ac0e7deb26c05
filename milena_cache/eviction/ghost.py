"""Pure. Keys that were evicted lately, or not admitted: as many as would fill WINDOW of the memory.

A table of buckets with WAYS slots of 32 bits each: 20 bits of the key's hash, and 12 bits of when it came, counted
in what came since: a unit is the 1/UNITS part of the memory. What came in each unit and is still remembered is
counted, so that the oldest units can be removed without a look at their keys. A key takes the slot of its bucket
that no longer counts, or else the oldest. So a key takes 8 to 16 bytes, and now and then is removed too early, or
taken for another one (one in 250,000), which costs a miss.

A table that is half full is followed by one of twice the size, and still asked until nothing in it counts: there is
no moment at which all keys are moved. All tables together have less than twice the slots of the last one.
"""

from __future__ import annotations

from array import array
from math import inf

# The part of the memory that the remembered entries would fill. As in libCacheSim's S3-FIFO.
WINDOW = 0.9
WAYS = 4
UNITS = 1024
MIN_BUCKETS = 256

# Units that can be told apart. What came earlier is removed, also if later keys were taken meanwhile.
_SPAN = 4096


class Ghost:
    """The keys that are remembered."""

    def __init__(self) -> None:
        self._table = _empty(MIN_BUCKETS)
        # The tables before, the latest first, and the last unit of each.
        self._before: list[tuple[array[int], int]] = []
        # What came since the start, in units, and the first unit that counts.
        self._now = 0.0
        self._first = 0
        # Of the keys that are remembered: their number and their parts of the memory, by unit and in all.
        self._numbers = array("I", bytes(4 * _SPAN))
        self._shares = array("d", bytes(8 * _SPAN))
        self._number = 0
        self._share = 0.0

    def add(self, key: bytes, share: float) -> None:
        """Remember a key whose entry was `share` of the memory, 0 to 1."""
        self._now += share * UNITS
        unit = int(self._now)
        while self._share + share > WINDOW and self._number:
            self._remove_unit()
        while unit - self._first >= _SPAN:
            self._remove_unit()
        self._number += 1
        self._share += share
        self._numbers[unit % _SPAN] += 1
        self._shares[unit % _SPAN] += share
        if self._number * 2 > len(self._table):
            self._before.insert(0, (self._table, unit))
            self._table = _empty(len(self._table) // WAYS * 2)
        table = self._table
        first, mark = _place(key, len(table))
        place, oldest = first, -1.0
        for slot in range(first, first + WAYS):
            age = self._age(table[slot])
            if age > oldest:
                place, oldest = slot, age
        table[place] = mark << 12 | unit % _SPAN

    def has(self, key: bytes) -> bool:
        """True if the key is remembered."""
        return self._find(key) is not None

    def pop_key(self, key: bytes) -> bool:
        """True if the key is remembered; then it is removed."""
        found = self._find(key)
        if found is None:
            return False
        table, slot = found
        unit = table[slot] % _SPAN
        table[slot] = 0
        number = self._numbers[unit]
        if number:  # 0: the key was taken for another one
            share = self._shares[unit] / number
            self._numbers[unit] -= 1
            self._shares[unit] -= share
            self._number -= 1
            self._share -= share
        return True

    def _find(self, key: bytes) -> tuple[array[int], int] | None:
        while self._before and self._before[-1][1] < self._first:
            self._before.pop()
        found = self._slot(self._table, key)
        if found >= 0:
            return self._table, found
        for table, _ in self._before:
            found = self._slot(table, key)
            if found >= 0:
                return table, found
        return None

    def _slot(self, table: array[int], key: bytes) -> int:
        """Return the slot in which the key is remembered; -1 if there is none."""
        first, mark = _place(key, len(table))
        for slot in range(first, first + WAYS):
            if table[slot] >> 12 == mark and self._age(table[slot]) < inf:
                return slot
        return -1

    def _age(self, word: int) -> float:
        """Return the age of what is in a slot, in units; inf if it does not count."""
        unit = int(self._now)
        age = (unit - word) % _SPAN
        return age if word and age <= unit - self._first else inf

    def _remove_unit(self) -> None:
        """Remove the keys of the first unit, or skip it if it has none."""
        unit = self._first % _SPAN
        self._number -= self._numbers[unit]
        self._share -= self._shares[unit]
        self._numbers[unit], self._shares[unit] = 0, 0.0
        self._first += 1


def _empty(buckets: int) -> array[int]:
    return array("I", bytes(4 * WAYS * buckets))


def _place(key: bytes, slots: int) -> tuple[int, int]:
    """Return the first slot of the key's bucket, and what stands for the key there, never 0."""
    number = hash(key)
    return (number & (slots // WAYS - 1)) * WAYS, (number >> 40) & 0xFFFFF or 1
