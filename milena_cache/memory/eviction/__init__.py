"""The orders in which entries are evicted from memory, by EVICTION_POLICY."""

from milena_cache.memory.eviction.order import EvictionOrder
from milena_cache.memory.eviction.policies import EVICTION_POLICIES, LRU, S3FIFO, S3FIFO_SIZE, order_of

__all__ = ["EVICTION_POLICIES", "LRU", "S3FIFO", "S3FIFO_SIZE", "EvictionOrder", "order_of"]
