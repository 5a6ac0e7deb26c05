"""Pure. The hot keys of a node: those with the most reads, and those of which the most bytes are read.

Sampled reads are counted in a window of WINDOW_SECONDS; what is shown is the last whole window (as by Valkey's
HOTKEYS). One read in ONE_IN is sampled, fewer if there are many: about SAMPLES of a window are enough. Of each kind
at most 2 * CAPACITY keys are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.sampling.frequent_keys import FrequentKeys
from milena_common.runtime.clock import Clock

WINDOW_SECONDS: Final = 10.0
# Keys that are shown, of each kind.
TOP_KEYS: Final = 32
CAPACITY: Final = 512
SAMPLES: Final = 4096
ONE_IN: Final = 64
# Above this the samples would be more than SAMPLES, with more than 400,000 reads a second.
MAX_ONE_IN: Final = 1024


@dataclass(frozen=True, slots=True)
class HotKey:
    """A key by its cache key, with its reads and the bytes of its values that were read, both a second."""

    key: bytes
    reads: float
    read_bytes: float


@dataclass(frozen=True, slots=True)
class HotKeysView:
    """What was read in a window.

    seconds: how long it was; 0 if none has ended yet
    reads, read_bytes: all of them, a second
    by_reads, by_bytes: TOP_KEYS at most, the hottest first
    """

    seconds: float = 0.0
    reads: float = 0.0
    read_bytes: float = 0.0
    by_reads: tuple[HotKey, ...] = ()
    by_bytes: tuple[HotKey, ...] = ()


class HotKeys:
    """The hot keys of what `counts` counts, of which it sets how many reads are sampled."""

    def __init__(self, counts: ReadCounts, clock: Clock) -> None:
        self._counts = counts
        self._now = clock.now
        counts.one_in = ONE_IN
        counts.on_sample = self.count
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all reads, and begin a window."""
        self._last = HotKeysView()
        self._begin()

    def count(self, key: bytes, size: int) -> None:
        """Count a sampled read of `size` bytes."""
        if self._now() >= self._until:
            self._end()
        self._reads.add(key, 1)
        if size:
            self._bytes.add(key, size)

    def view(self) -> HotKeysView:
        """Return what was read in the last whole window."""
        if self._now() >= self._until:
            self._end()
        return self._last

    def _begin(self) -> None:
        self._began = self._now()
        self._until = self._began + WINDOW_SECONDS
        self._reads, self._bytes = FrequentKeys(CAPACITY), FrequentKeys(CAPACITY)

    def _end(self) -> None:
        # Longer than WINDOW_SECONDS if nothing was sampled, and no view was asked for, when it should have ended.
        seconds = self._now() - self._began
        rate = self._counts.one_in / seconds
        reads, sizes = dict(self._reads.greatest(2 * CAPACITY)), dict(self._bytes.greatest(2 * CAPACITY))

        def top(keys: FrequentKeys) -> tuple[HotKey, ...]:
            return tuple(
                HotKey(key, reads.get(key, 0) * rate, sizes.get(key, 0) * rate)
                for key, _ in keys.greatest(TOP_KEYS)
            )

        self._last = HotKeysView(
            seconds, self._reads.total * rate, self._bytes.total * rate, top(self._reads), top(self._bytes)
        )
        counts = self._counts
        counts.one_in = min(MAX_ONE_IN, max(ONE_IN, self._reads.total * counts.one_in // SAMPLES))
        self._begin()
