"""Coordination. What makes writes durable in a ring with copies: this node's journal, and those of the holders.

It is the journal, and adds what callers must know of copies: which writes need not be tried, which are refused, and
when nothing of a key can come back. The journal hands commits to `replication`. Without that it is the journal
alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from milena_cache.copies.copy_policy import REQUIRE, not_allowed
from milena_cache.copies.replication import Replication
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.record import Record
from milena_cache.objects.version import Version
from milena_cache.objects.write_request import CopiesPolicy, OnDone, Receipt
from milena_cache.writeback.dirty_table import DirtyEntry
from milena_cache.writes.durable import NotCopied


class ReplicatedJournal:
    """A `Durable`. `replication` is None while the node keeps no copies elsewhere."""

    def __init__(self, journal: Journal[DirtyEntry], policy: CopiesPolicy) -> None:
        self.replication: Replication | None = None
        self._journal = journal
        self._policy = policy

    def next_version(self, owned_since: int) -> Version:
        return self._journal.next_version(owned_since)

    def next_versions(self, owned_since: int, number: int) -> Version:
        return self._journal.next_versions(owned_since, number)

    def rejection(self, key: bytes) -> str:
        rejection = self._journal.rejection(key)
        if rejection or self.replication is None or self._policy == REQUIRE:
            return rejection
        return NotCopied.reason if self.replication.cannot_copy(key) else ""

    def append(
        self, record: Record, token: DirtyEntry, on_done: OnDone[DirtyEntry], timeout: float
    ) -> asyncio.Future[None]:
        self._check(record.cache_key)
        return self._journal.append(record, token, on_done, timeout)

    def append_all(
        self,
        records: Sequence[Record],
        tokens: Sequence[DirtyEntry],
        on_done: OnDone[DirtyEntry],
        timeout: float,
    ) -> list[asyncio.Future[None]]:
        for record in records:
            self._check(record.cache_key)
        return self._journal.append_all(records, tokens, on_done, timeout)

    def append_for(
        self,
        receipt: Receipt,
        record: Record,
        token: DirtyEntry,
        on_done: OnDone[DirtyEntry],
        timeout: float,
    ) -> None:
        self._check(record.cache_key)
        self._journal.append_for(receipt, record, token, on_done, timeout)

    def _check(self, key: bytes) -> None:
        """Raise Unavailable if a write of `key` is to be refused because too few nodes can have copies."""
        if self.replication is not None and self._policy == REQUIRE and (why := self.replication.cannot_copy(key)):
            raise not_allowed(why)

    async def wait_commit(self) -> None:
        await self._journal.wait_commit()

    def release(self, seq: int, key: bytes) -> None:
        self._journal.release(seq, key)

    def retired(self, key: bytes, version: Version) -> None:
        if self.replication is not None:
            self.replication.retired(key, version)

    async def copies_released(self, key: bytes) -> bool:
        return self.replication is None or await self.replication.has_released(key)

    async def has_released(self, key: bytes) -> bool:
        # Not of copies: a delete was copied before it was acknowledged, so no holder has an older put.
        return await self._journal.has_released(key)
