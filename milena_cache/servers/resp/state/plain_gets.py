"""Pure. GETs of what is in memory, many at once: the path on which Milena has to be as fast as it can.

What `Node.lookup` decides for one key is decided here for all keys of a read, with what they share done once: the
time, the counts, the limits. Only plain hits are answered: a fresh copy of an object that does not end by itself
and has nothing dirty over it. The first key that is anything else stops it, and that key goes the general way.
"""

from __future__ import annotations

from milena_cache.membership.ownership import Ownership
from milena_cache.memory.freshness import Freshness
from milena_cache.memory.lru import Memory
from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.servers.resp.state.pending_replies import LARGE
from milena_cache.writeback.dirty_table import Dirty
from milena_common.cluster.slots import slot_of


class PlainGets:
    """The plain hits of one node."""

    def __init__(
        self, memory: Memory, dirty: Dirty, ownership: Ownership, freshness: Freshness, reads: ReadCounts
    ) -> None:
        self._memory = memory
        self._dirty = dirty
        self._ownership = ownership
        # Whatever the jitter makes of a key's ttl, a younger copy is fresh.
        self._surely_fresh = freshness.ttl * (1.0 - freshness.jitter)
        self._reads = reads

    def serve(self, keys: list[bytes], now: float, parts: list[bytes], max_bytes: int) -> int:
        """Append the answers to the first of `keys` to `parts`, and return how many that were.

        `now` is monotonic seconds. It stops before the values have more than `max_bytes` bytes, but for the first.
        """
        entries = self._memory.entries
        get, used = entries.get, entries.move_to_end
        dirty = self._dirty.entries
        since = self._ownership.since
        everything_since = since[0] if self._ownership.single else None
        oldest = now - self._surely_fresh
        served = hits = 0
        head, length = b"", -1
        for key in keys:
            owned_since = everything_since if everything_since is not None else since[slot_of(key)]
            if owned_since < 0:
                break
            written = dirty.get(key) if dirty else None
            if written is not None:
                value = written.value
                if written.owned_since < owned_since or written.expires_at or written.damaged:
                    break
            else:
                entry = get(key)
                if (
                    entry is None
                    or entry.checked_at <= oldest
                    or entry.owned_since < owned_since
                    or entry.expires_at
                ):
                    break
                value = entry.value
                used(key)
            if value is None or (size := len(value)) >= LARGE:
                break
            served += size
            if served > max_bytes and hits:
                served -= size
                break
            if size != length:
                head, length = b"$%d\r\n" % size, size
            # Not put together here: values are copied once, when they are sent.
            parts += (head, value, b"\r\n")
            hits += 1
        if hits:
            self._reads.outcomes["hit"] += hits
            self._reads.hit_bytes += served
        return hits
