"""Pure. The eviction order of each EVICTION_POLICY."""

from __future__ import annotations

from milena_cache.eviction.order import EntryTable, EvictionOrder
from milena_cache.eviction.s3fifo import S3Fifo
from milena_cache.eviction.s3fifo_size import S3FifoSize
from milena_cache.eviction.second_chances import SecondChances

LRU, S3FIFO, S3FIFO_SIZE = "lru", "s3fifo", "s3fifo-size"
EVICTION_POLICIES = (LRU, S3FIFO, S3FIFO_SIZE)


def order_of(policy: str, table: EntryTable) -> EvictionOrder:
    """Return the eviction order of `policy`, one of EVICTION_POLICIES, for `table`."""
    if policy == S3FIFO:
        return S3Fifo(table)
    if policy == S3FIFO_SIZE:
        return S3FifoSize(table)
    return SecondChances(table)
