"""Coordination. The properties of objects: what S3 keeps with them besides their values.

Memory's entries have none, since no other protocol asks for them. They are read by a HEAD when they are first asked
for, and kept as long as an entry of their age would be fresh. A dirty write has none but the time at which it was
acknowledged: a write with properties goes through to S3.
"""

from __future__ import annotations

from typing import Protocol

from milena_cache.memory.existence import Existence
from milena_cache.memory.freshness import Freshness
from milena_cache.memory.known_properties import KnownProperties
from milena_cache.memory.single_flight import SharedCall
from milena_cache.objects.etags import same_etag
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import Info, OriginFailure, Ref
from milena_cache.objects.properties import properties_of
from milena_cache.reads.reader import FENCED
from milena_cache.writeback.dirty_table import Dirty
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_common.api.errors import MilenaError, NoNodes, OriginUnavailable
from milena_common.api.properties import Properties
from milena_common.runtime.clock import Clock

# Outcomes of reads whose entry is served although S3 does not confirm it: its properties are, too.
_UNCONFIRMED = ("stale_error", "stale_fenced")


class Describes(Protocol):
    """S3, as far as it is read here."""

    async def describe(self, ref: Ref, deadline: float) -> Info | None:
        """Return the object with its attributes; None if there is none. No request begins after `deadline`."""


class PropertyReads:
    """The properties of one node's objects."""

    def __init__(
        self,
        store: Describes,
        existence: Existence,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        freshness: Freshness,
        clock: Clock,
    ) -> None:
        self._store = store
        self._table = existence.properties
        self._describing = existence.describing
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._freshness = freshness
        self._clock = clock

    def find(self, target: Object, etag: str, outcome: str, owned_since: int, *, dirty: bool) -> Properties | None:
        """Return the properties of the version that a read has found; None if S3 has to be asked. Never awaits.

        `outcome` and `dirty` are those of the read.
        """
        key = target.cache_key
        if dirty:
            entry = self._dirty.get(key)
            if entry is not None and not entry.deleted and not entry.belief.keeps:
                if same_etag(self._dirty_writes.etag(entry), etag):
                    return Properties(self._clock.wall() - max(0.0, self._clock.now() - entry.acknowledged_at))
                return None
        known = self._table.get(key)
        if known is None or not _is_of(known, etag):
            return None
        if outcome not in _UNCONFIRMED and owned_since != FENCED:
            old = self._clock.now() - known.checked_at >= self._freshness.fresh_for(key)
            if old or known.owned_since < owned_since:
                return None
        return known.properties

    async def read(self, target: Object, etag: str, timeout: float, owned_since: int) -> Properties | None:
        """Return the properties of that version, by a HEAD; None if S3 has another version, or none.

        If S3 fails, those that are known are returned, however old. Raises OriginUnavailable after `timeout`
        seconds, NoNodes if the fence is closed, AccessDenied or FailedPrecondition with S3's message.
        """
        if owned_since == FENCED:
            raise NoNodes(f"{target.ref}: this node is fenced, and does not know the object's properties")
        key, now = target.cache_key, self._clock.now()
        known = self._table.get(key)
        call = self._describing.join(key, owned_since, now)
        if call is None:
            call = self._describing.start(
                key, owned_since, lambda call: self._describe(target, owned_since, now + timeout, call), now
            )
        try:
            if not await self._describing.wait(call, timeout):
                raise OriginUnavailable(f"S3 head of {target.ref}: no response within {timeout:.3g} s")
            found = call.outcome.result()
        except (OriginFailure, MilenaError) as error:
            if known is not None and _is_of(known, etag) and known.owned_since >= owned_since:
                return known.properties
            raise error.as_error() if isinstance(error, OriginFailure) else error from None
        return found.properties if found is not None and _is_of(found, etag) else None

    async def _describe(
        self, target: Object, owned_since: int, deadline: float, call: SharedCall[KnownProperties | None]
    ) -> KnownProperties | None:
        sent_at = self._clock.now()
        info = await self._store.describe(target.ref, deadline)
        if info is None:
            return None
        known = KnownProperties(info.etag, properties_of(info), sent_at, owned_since)
        if call.attached:
            self._table.remember(target.cache_key, known)
        return known

    async def cancel_heads(self) -> None:
        """Cancel the HEADs in flight, at the end of the process."""
        await self._describing.cancel_all()


def _is_of(known: KnownProperties, etag: str) -> bool:
    return same_etag(known.etag, etag) or not (known.etag or etag)
