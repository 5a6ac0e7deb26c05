"""Pure. What happens to the keys of a sample: events from which `milena_cache.sampling` simulates other memories.

A key is in the sample, always or never, if SAMPLE_BITS of its hash are below a threshold: what a cache does with a
key cannot be seen in every hundredth of its reads. The hash is that of the process, with its random seed, so that
no one can choose keys that are in the sample.

A hit of another key must not pay for this. So the memory keeps entries of the sample as `SampledEntry`, and only
their reads come here. All that is done then is to append to a list; `milena_cache.sampling` takes the events out.
"""

from __future__ import annotations

from typing import Final

from milena_cache.objects.entry import Entry

# Bits of a key's hash that decide whether it is in the sample.
SAMPLE_BITS: Final = 24
_SAMPLE_SHIFT: Final = 16
ALL_KEYS: Final = 1 << SAMPLE_BITS
# Events that wait; further ones are dropped, and counted, and the sample becomes smaller. They are taken ten times
# a second: so these are about one in a hundred of the hits that a node can serve.
MAX_EVENTS: Final = 512

READ: Final = 0
STORED: Final = 1
DROPPED: Final = 2
ABSENT: Final = -1

# What happened, the key's hash, its length, and the length of the value or ABSENT.
Event = tuple[int, int, int, int]


def sample_number(key_hash: int) -> int:
    """Return the number, 0 to ALL_KEYS - 1, by which a key of that hash is in a sample or not."""
    return key_hash >> _SAMPLE_SHIFT & (ALL_KEYS - 1)


class ReadSamples:
    """The events of one memory.

    threshold: keys whose `sample_number` is below it are in the sample; 0 for none
    events: those that were not taken yet, MAX_EVENTS at most
    lost: events that were dropped, because there was no room
    """

    def __init__(self) -> None:
        self.threshold = 0
        self.events: list[Event] = []
        self.lost = 0

    def take_events(self) -> list[Event]:
        """Return the events, and forget them."""
        events, self.events = self.events, []
        return events

    def read(self, key: bytes, entry: Entry) -> bool:
        """Record a read that was served `entry`; False if the key is not in the sample."""
        return self._record(READ, key, ABSENT if entry.value is None else entry.size)

    def stored(self, key: bytes, entry: Entry) -> bool:
        """Record that an entry was stored; False if the key is not in the sample."""
        return self._record(STORED, key, ABSENT if entry.value is None else entry.size)

    def dropped(self, key: bytes) -> None:
        """Record that the memory may have no entry of the key any more, because of a change of the object."""
        if self.threshold:
            self._record(DROPPED, key, ABSENT)

    def _record(self, kind: int, key: bytes, size: int) -> bool:
        key_hash = hash(key)
        if sample_number(key_hash) >= self.threshold:
            return False
        if len(self.events) < MAX_EVENTS:
            self.events.append((kind, key_hash, len(key), size))
        else:
            self.lost += 1
        return True
