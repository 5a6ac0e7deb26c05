"""Pure. What of a move is still to be sent: the dirty keys by slot, and which slots to hand over next.

The owner serves meanwhile, so each change of a dirty entry puts its key back (`changed`). A key whose entry is gone
by then is to be sent too: without that the destination would serve, and upload, a write that S3 has a later one of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

from milena_cache.handover.frames import MAX_BYTES, MAX_WRITES, Range, ranges_of
from milena_cache.objects.version import Version
from milena_common.cluster.slots import slot_of

# Seconds that the rest of a batch of slots may take when it is stopped.
REST_SECONDS = 0.01
# Slots of a batch, see `paused`. Each batch costs a release, and most of them a ring: thousands of small ones would
# take longer than the moves themselves.
MIN_SLOTS, FIRST_SLOTS, MAX_SLOTS = 64, 256, 2048
# Ranges of a batch: slots that are not ready divide it.
MAX_RANGES = 64
# Seconds that a batch was stopped before its release: next time there are twice as many slots, or half as many.
SHORT_PAUSE, LONG_PAUSE = 0.01, 0.025
# Bytes that a write counts for besides its value.
WRITE_BYTES = 2000
# Bytes sent in a second until that was measured, and of a frame by which it is measured: the time of a small one is
# that of the connection and the sync, and would make any rest seem long.
FIRST_RATE = 20e6
MEASURED_BYTES = MAX_BYTES // 4
# Seconds without a frame for each second that a frame took longer than is usual, and at most; see `yields`.
YIELD = 1.0
MAX_YIELD = 0.25


class Outgoing:
    """One move as its owner sees it.

    slots: those that are not handed over yet
    serial: number of the latest command of the move
    max_slots: how many slots the next batch has at most
    their_zero: by how much the destination's monotonic clock is ahead of this node's, in seconds, or somewhat less
    """

    def __init__(self, slots: Iterable[int]) -> None:
        self.slots = set(slots)
        self.serial = 0
        self.max_slots = FIRST_SLOTS
        self.their_zero = -inf
        # By slot and key the newest version that the destination may have.
        self._sent: dict[int, dict[bytes, Version]] = {}
        self._left: dict[int, set[bytes]] = {}
        self._rate = FIRST_RATE
        self._shortest = inf  # seconds of a large frame
        self._congestion = 0.0

    def changed(self, key: bytes) -> None:
        """Record that the dirty entry of `key` is new, another, or gone."""
        slot = slot_of(key)
        if slot in self.slots:
            self._left.setdefault(slot, set()).add(key)

    def keep_only(self, slots: set[int]) -> None:
        """Drop what is about other slots than `slots`."""
        self.slots &= slots
        for by_slot in (self._left, self._sent):
            for slot in [slot for slot in by_slot if slot not in self.slots]:
                del by_slot[slot]

    # ---- what the destination has

    def sent(self, key: bytes) -> Version | None:
        """Return the newest version of `key` that the destination may have, None if it has none."""
        return self._sent.get(slot_of(key), {}).get(key)

    def record_sent(self, key: bytes, version: Version | None) -> None:
        """Record what the destination may have of `key`; None if it has nothing any more."""
        if version is not None:
            self._sent.setdefault(slot_of(key), {})[key] = version
        else:
            self._sent.get(slot_of(key), {}).pop(key, None)

    def sent_writes(self, slot: int) -> tuple[tuple[bytes, Version], ...]:
        """Return the keys of `slot` of which the destination may have a write, each with its newest version."""
        return tuple(self._sent.get(slot, {}).items())

    # ---- what is left

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

    def measured(self, size: int, seconds: float, writes: int = 0) -> None:
        """Record that `writes` of `size` bytes took `seconds` until they were confirmed."""
        if size >= MEASURED_BYTES and seconds > 0:
            self._rate = 0.7 * self._rate + 0.3 * size / seconds
        self._congestion = 0.0
        if size >= MEASURED_BYTES or writes >= MAX_WRITES // 2:
            self._shortest = min(self._shortest, seconds)
            self._congestion = max(0.0, seconds - 2 * self._shortest)

    @property
    def yields(self) -> float:
        """Return for how many seconds to send nothing, so that requests come first.

        Nothing that one node measures of itself shows that the nodes and their clients have too little processor
        together: that the last frame took longer than twice the shortest one does.
        """
        return min(MAX_YIELD, YIELD * self._congestion)

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

    def paused(self, seconds: float, frames: int) -> None:
        """Record for how long the last batch was stopped before its release, and how many frames its rest needed.

        Fewer slots make only the rest smaller. A single frame, and the release, take as long for them: where those
        are slow, as on a busy disk, small batches would make a move many times as long, and no pause shorter.
        """
        if seconds > LONG_PAUSE and frames > 1:
            self.max_slots = max(MIN_SLOTS, self.max_slots // 2)
        elif seconds < SHORT_PAUSE:
            self.max_slots = min(MAX_SLOTS, 2 * self.max_slots)

    def next_batch(self, is_ready: Callable[[int], bool], *, idle: bool = False) -> list[Range]:
        """Return the slots to hand over next, of those that are ready; none if there are none.

        `idle`: only slots of which nothing is left to send, up to MAX_SLOTS at once, since that takes no longer.
        """
        batch: list[Range] = []
        slots, max_slots = (self.slots - self._left.keys(), MAX_SLOTS) if idle else (self.slots, self.max_slots)
        for number, slot in enumerate(filter(is_ready, sorted(slots))):
            adjacent = bool(batch) and batch[-1][1] == slot - 1
            if number >= max_slots or (not adjacent and len(batch) >= MAX_RANGES):
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
            self._sent.pop(slot, None)

    @property
    def ranges(self) -> list[Range]:
        """Return the slots that are not handed over yet."""
        return ranges_of(self.slots)
