"""Pure. The miss-ratio curve: the misses that the node would have with less memory, and with more.

One `Miniature` for each of SCALES, all with the node's eviction policy. Each has a sample of its own size, so that
none has more than MAX_KEYS entries: of a memory of 10,000 entries, the one of a quarter simulates four of five
keys, the one of eight times one of 40. All together take less than 4 MiB, with fewer keys for s3fifo-size, whose
queues for each class of sizes take as much again as its entries.

Larger samples are always of the same keys and more. So whether a key is of interest is decided by one comparison
with `threshold`, that of the largest sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from milena_cache.eviction.policies import LRU, S3FIFO, S3FIFO_SIZE
from milena_cache.memory.freshness import Freshness
from milena_cache.memory.read_samples import ALL_KEYS, sample_number
from milena_cache.sampling.miniature import KEY_BYTES, Miniature

# The simulated memories, in parts of the node's.
SCALES: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
MAX_KEYS: Final[Mapping[str, int]] = {LRU: 2048, S3FIFO: 2048, S3FIFO_SIZE: 1024}

_HASH_MASK: Final = (1 << 8 * KEY_BYTES) - 1


class Curve:
    """The simulated memories of a node whose own one has `max_entries` and `max_bytes`.

    Hashes of keys are whole numbers of 64 bits, negative ones included. Times are monotonic seconds. `size` is that
    of the value, None if the object does not exist; `key_size` that of the cache key; both in bytes.

    miniatures: in the order of SCALES
    """

    def __init__(
        self, max_entries: int, max_bytes: int, policy: str, freshness: Freshness, max_keys: int | None = None
    ) -> None:
        max_keys = max_keys or MAX_KEYS[policy]
        self.miniatures = [
            Miniature(scale, max_entries, max_bytes, policy, freshness, max_keys) for scale in SCALES
        ]

    @property
    def threshold(self) -> int:
        """Keys are of interest whose `sample_number` is below it."""
        return max(each.threshold for each in self.miniatures)

    def simulates(self, key_hash: int) -> bool:
        """True if any of the memories simulates the key."""
        return sample_number(key_hash) < self.threshold

    def read(self, key_hash: int, key_size: int, size: int | None, now: float) -> None:
        """Simulate a read."""
        number, key = sample_number(key_hash), _key(key_hash)
        for each in self.miniatures:
            if number < each.threshold:
                each.read(key, key_size, size, now)

    def store(self, key_hash: int, key_size: int, size: int | None, now: float) -> None:
        """Simulate that the node stored an entry: after a read, which was simulated before, or a write."""
        number, key = sample_number(key_hash), _key(key_hash)
        for each in self.miniatures:
            if number < each.threshold:
                each.store(key, key_size, size, now)

    def drop_key(self, key_hash: int) -> None:
        """Simulate that the node dropped what it had of the object."""
        key = _key(key_hash)
        for each in self.miniatures:
            each.drop_key(key)

    def lend(self, share: float) -> None:
        """Have a share (0 to 1) of each memory used by something else than entries."""
        for each in self.miniatures:
            each.lend(share)

    def thin(self) -> None:
        """Make the largest samples smaller, so that there is less to simulate."""
        largest = self.threshold
        for each in self.miniatures:
            if each.threshold == largest:
                each.thin()


def share_of(threshold: int) -> float:
    """Return the share of the keys, 0 to 1, that a sample of that threshold has."""
    return threshold / ALL_KEYS


def _key(key_hash: int) -> bytes:
    return (key_hash & _HASH_MASK).to_bytes(KEY_BYTES, "little")
