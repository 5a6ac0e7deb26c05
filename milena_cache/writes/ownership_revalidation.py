"""Coordination. Ownership revalidation: may a dirty write of an earlier ownership of its slot still be served?

The interleaving that this avoids: (1) this node acknowledges a write and does not upload it; (2) the slot moves to
another node, which acknowledges a later write and uploads it; (3) the slot comes back, and a read here returns the
write of step 1. So before a dirty entry of an earlier ownership is served, its object in S3 is looked at: a later
version there means that the entry is superseded, and it is retired.
"""

from __future__ import annotations

import logging

from milena_cache.memory.entries import Entries
from milena_cache.objects.lineage import Lineages
from milena_cache.objects.object_store import NO_METADATA, OriginFailure
from milena_cache.objects.version import lineage_of, stamped
from milena_cache.origin.requests import Origin
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_common.api.errors import OriginUnavailable
from milena_common.runtime.clock import Clock
from milena_common.runtime.key_locks import KeyLocks

log = logging.getLogger(__name__)


class OwnershipRevalidation:
    """Compares dirty entries with S3, each with its key's lock of `s3_locks` held."""

    def __init__(
        self,
        origin: Origin,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        s3_locks: KeyLocks,
        entries: Entries,
        clock: Clock,
        lineages: Lineages,
    ) -> None:
        self._origin = origin
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._s3_locks = s3_locks
        self._entries = entries
        self._clock = clock
        self._lineages = lineages

    async def revalidate(self, entry: DirtyEntry, owned_since: int, deadline: float) -> None:
        """Look in S3 for a later version that was written while this node did not own the key's slot.

        Afterwards either the key's entry may be served to requests of the ownership since epoch `owned_since`, or
        the key has no dirty entry. `deadline` is in monotonic seconds. Raises as `Writes.put` does.
        """
        key = entry.key
        ref = self._dirty_writes.ref(entry)
        async with self._s3_locks.hold(key, max(0.0, deadline - self._clock.now())):
            # A put that is acknowledged during the request to S3 may be of an earlier ownership too: check again.
            while (current := self._dirty.get(key)) is not None and current.belief.owned_since < owned_since:
                try:
                    found = await self._origin.look(ref, deadline)
                except OriginFailure as failure:
                    if current.dead and failure.fault.of_object:
                        # S3 rejects this key, so no other node can have a later version of it there.
                        current.belief = current.belief.confirmed(owned_since)
                        continue
                    raise failure.as_error() from None
                if self._dirty.get(key) is not current:
                    continue
                metadata = found.metadata if found else NO_METADATA
                version, lineage, late = stamped(metadata, ref), lineage_of(metadata), current.belief.late
                if self._lineages.undecided(lineage, late=late):
                    raise OriginUnavailable(
                        f"{ref}: an unknown lineage wrote it; its version is comparable only once the ring is known"
                    )
                comparable = self._lineages.comparable(lineage, late=late)
                if version is not None and comparable and version > current.version:
                    log.info("%s: %s is not served or uploaded: a later write is in S3", ref, current.version)
                    self._dirty_writes.retire(current)
                    self._entries.invalidate(key)
                else:
                    current.belief = current.belief.confirmed(owned_since)
