"""Pure. The fast path of GET: replies to many hits at once, without a call for each.

It decides for all keys of a read what `Node.lookup` decides for one; time, counts and limits are handled once. It
must never serve what `lookup` would not. It serves entries that are surely fresh whatever the key's jitter, of the
slot's present ownership and without an expiry; and before them, as `lookup` does, dirty entries of the present
ownership, without an expiry or damage. The first key of any other kind ends the run and goes the general path, so
that the replies stay in order.

Nothing here awaits, so no write can come between the lookup and the reply.
"""

from __future__ import annotations

from milena_cache.membership.ownership import Ownership
from milena_cache.memory.freshness import Freshness
from milena_cache.memory.lru import Memory
from milena_cache.objects.entry import MAX_USES, Entry, SampledEntry
from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.servers.resp.state.pending_replies import LARGE
from milena_cache.writeback.dirty_table import Dirty
from milena_common.cluster.slots import slot_of


class PlainGets:
    """The fast path of one node's GETs."""

    def __init__(
        self, memory: Memory, dirty: Dirty, ownership: Ownership, freshness: Freshness, reads: ReadCounts
    ) -> None:
        self._memory = memory
        self._find = memory.find
        self._find_dirty = dirty.get
        self._dirty = dirty
        self._ownership = ownership
        # The shortest ttl that the jitter leaves any key: a younger entry is fresh without its key being hashed.
        self._surely_fresh = freshness.ttl * (1.0 - freshness.jitter)
        self._reads = reads

    def serve(self, keys: list[bytes], now: float, parts: list[bytes], max_bytes: int) -> int:
        """Append the replies to the first of `keys` to `parts`, and return how many.

        `now` is monotonic seconds. Ends before the values exceed `max_bytes` bytes together, except with the first.
        """
        find, find_dirty = self._find, self._find_dirty
        any_dirty = self._dirty.bytes
        since = self._ownership.since
        everything_since = since[0] if self._ownership.single else None
        oldest = now - self._surely_fresh
        served = hits = 0
        head, length = b"", -1
        for key in keys:
            owned_since = everything_since if everything_since is not None else since[slot_of(key)]
            if owned_since < 0:
                break
            written = find_dirty(key) if any_dirty else None
            if written is not None:
                value = written.value
                if (
                    written.belief.owned_since < owned_since
                    or written.expires_at
                    or (written.dead is not None and written.dead.damaged)
                ):
                    break
            else:
                entry = find(key)
                if entry is None:
                    break
                checked_at, checked_since = entry.stamp
                if checked_at <= oldest or checked_since < owned_since:
                    break
                value = entry.value
                if type(entry) is not Entry:
                    if type(entry) is not SampledEntry or value is None or len(value) >= LARGE:
                        break
                    if hits and served + len(value) > max_bytes:
                        break
                    self._memory.read_sampled(key, entry)
                if entry.uses < MAX_USES:
                    entry.uses += 1
            if value is None or (size := len(value)) >= LARGE:
                break
            served += size
            if served > max_bytes and hits:
                served -= size
                break
            if size != length:
                head, length = b"$%d\r\n" % size, size
            # Not joined here: values are copied once, when they are sent.
            parts += (head, value, b"\r\n")
            hits += 1
        if hits:
            reads = self._reads
            reads.outcomes["hit"] += hits
            reads.hit_bytes += served
            reads.due -= hits
            if reads.due <= 0:
                self._sample(keys, hits, parts)
        return hits

    def _sample(self, keys: list[bytes], hits: int, parts: list[bytes]) -> None:
        """Record those of the first `hits` keys that are due to be sampled; `parts` ends with their replies."""
        reads = self._reads
        while reads.due <= 0:
            before = hits - 1 + reads.due
            reads.take_sample(keys[before], len(parts[len(parts) - 3 * (hits - before) + 1]))
