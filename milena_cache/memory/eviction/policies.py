"""Wiring. The eviction order of each EVICTION_POLICY."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milena_cache.memory.eviction.order import EvictionOrder
from milena_cache.memory.eviction.s3fifo import S3Fifo
from milena_cache.memory.eviction.s3fifo_size import S3FifoSize
from milena_cache.memory.eviction.second_chances import SecondChances

if TYPE_CHECKING:
    from milena_cache.memory.lru import Memory

LRU, S3FIFO, S3FIFO_SIZE = "lru", "s3fifo", "s3fifo-size"
EVICTION_POLICIES = (LRU, S3FIFO, S3FIFO_SIZE)


def order_of(policy: str, memory: Memory) -> EvictionOrder:
    """Return the eviction order of `policy`, one of EVICTION_POLICIES, for `memory`."""
    if policy == S3FIFO:
        return S3Fifo(memory)
    if policy == S3FIFO_SIZE:
        return S3FifoSize(memory)
    return SecondChances(memory)
