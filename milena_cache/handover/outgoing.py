"""Pure. What of a move is still to be sent: the dirty keys by slot, and which slots to hand over next.

The owner serves meanwhile, so each change of a dirty entry puts its key back (`changed`). A key whose entry is gone
by then is to be sent too: without that the destination would serve, and upload, a write that S3 has a later one of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from milena_cache.handover.frames import MAX_BYTES, MAX_WRITES, Range, ranges_of
from milena_cache.objects.version import Version
from milena_common.cluster.slots import slot_of

# Seconds that the rest of a batch of slots may take when it is stopped.
REST_SECONDS = 0.01
# Slots, and ranges of slots, of a batch: each range stopped, handed over or taken costs a computation of the slots
# that are served, about a millisecond.
MAX_SLOTS = 1024
MAX_RANGES = 4
# Bytes that a write counts for besides its value.
WRITE_BYTES = 2000
# Bytes sent in a second until that was measured.
FIRST_RATE = 20e6


class Outgoing:
    """One move as its owner sees it.

    slots: those that are not handed over yet
    serial: number of the latest command of the move
    sent: by key the newest version that the destination may have
    """

    def __init__(self, slots: Iterable[int]) -> None:
        self.slots = set(slots)
        self.serial = 0
        self.sent: dict[bytes, Version] = {}
        self._left: dict[int, set[bytes]] = {}
        self._rate = FIRST_RATE

    def changed(self, key: bytes) -> None:
        """Record that the dirty entry of `key` is new, another, or gone."""
        slot = slot_of(key)
        if slot in self.slots:
            self._left.setdefault(slot, set()).add(key)

    def keep_only(self, slots: set[int]) -> None:
        """Drop what is about other slots than `slots`."""
        self.slots &= slots
        for slot in [slot for slot in self._left if slot not in self.slots]:
            del self._left[slot]

    def next_keys(self, slots: Iterable[int], size_of: Callable[[bytes], int]) -> list[bytes]:
        """Remove and return keys of `slots` for one frame; `size_of` returns the bytes of a key's value."""
        taken: list[bytes] = []
        total = 0
        for slot in slots:
            keys = self._left.get(slot)
            while keys:
                key = keys.pop()
                size = size_of(key) + len(key) + WRITE_BYTES
                if taken and (total + size > MAX_BYTES or len(taken) >= MAX_WRITES):
                    keys.add(key)
                    return taken
                taken.append(key)
                total += size
            self._left.pop(slot, None)
        return taken

    def put_back(self, keys: Iterable[bytes]) -> None:
        """Record that `keys` were not sent after all."""
        for key in keys:
            self.changed(key)

    def measured(self, size: int, seconds: float) -> None:
        """Record that `size` bytes took `seconds` until they were confirmed."""
        if size and seconds > 0:
            self._rate = 0.7 * self._rate + 0.3 * size / seconds

    @property
    def waiting(self) -> int:
        """Return how many keys are still to be sent."""
        return sum(map(len, self._left.values()))

    def left(self, slots: Iterable[int]) -> int:
        """Return how many keys of `slots` are still to be sent."""
        return sum(len(self._left[slot]) for slot in self._left.keys() & slots)

    def rest_seconds(self, slots: Iterable[int], size_of: Callable[[bytes], int]) -> float:
        """Return how long it takes to send what is left of `slots`, as measured."""
        waiting = self._left.keys() & slots
        total = sum(size_of(key) + WRITE_BYTES for slot in waiting for key in self._left[slot])
        return total / self._rate

    def next_batch(self, size_of: Callable[[bytes], int], is_served: Callable[[int], bool]) -> list[Range]:
        """Return the slots to hand over next: as many as have a rest of REST_SECONDS together, at least one.

        Only slots that are served here, according to `is_served`: none if there are none.
        """
        batch: list[Range] = []
        seconds = 0.0
        for number, slot in enumerate(filter(is_served, sorted(self.slots))):
            if slot in self._left:
                seconds += self.rest_seconds((slot,), size_of)
            adjacent = bool(batch) and batch[-1][1] == slot - 1
            full = number >= MAX_SLOTS or (not adjacent and len(batch) >= MAX_RANGES)
            if batch and (full or seconds > REST_SECONDS):
                break
            if adjacent:
                batch[-1] = (batch[-1][0], slot)
            else:
                batch.append((slot, slot))
        return batch

    def handed_over(self, slots: Iterable[int]) -> None:
        """Record that the destination serves `slots`."""
        for slot in slots:
            self.slots.discard(slot)
            self._left.pop(slot, None)

    @property
    def ranges(self) -> list[Range]:
        """Return the slots that are not handed over yet."""
        return ranges_of(self.slots)
