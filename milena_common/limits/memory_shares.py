"""Pure. The default limits of a process, derived from its memory limit.

The shares add up to less than the limit, with room for the interpreter, its libraries and memory that the allocator
retains, so that a container at the shipped limits is not killed while it stays within its budgets.
"""

from __future__ import annotations

from milena_common.limits.call_bytes import COPIES, ENVELOPE_BYTES

# An idle node or router with its libraries and connections, rounded up.
BASE_BYTES = 96 * 2**20
# The minimum for bytes in flight, where the memory limit is very low.
MIN_IN_FLIGHT_BYTES = 2**20


def in_flight_share(limit: int, max_value_bytes: int) -> int:
    """Return the default of MAX_IN_FLIGHT_BYTES: a quarter of `limit` bytes.

    It is larger where one request of `max_value_bytes` with its copies needs it, up to a third of the limit. A
    still larger request is admitted when it is alone.
    """
    one = COPIES * (max_value_bytes + ENVELOPE_BYTES)
    return max(limit // 4, min(one, limit // 3), MIN_IN_FLIGHT_BYTES)


def dirty_share(limit: int) -> int:
    """Return the default of DIRTY_MEMORY_BYTES: an eighth of `limit` bytes."""
    return limit // 8


def copies_memory(dirty_memory: int) -> int:
    """Return the bytes of keys and overhead of copies of other nodes' writes: half of DIRTY_MEMORY_BYTES.

    The values of copies are in the journal only.
    """
    return dirty_memory // 2


def lru_share(limit: int, in_flight: int, dirty_memory: int) -> int:
    """Return the default of LRU_BYTES: half of `limit`, or what the other shares and a tenth of the limit leave."""
    others = in_flight + dirty_memory + copies_memory(dirty_memory)
    return max(min(limit // 2, limit - BASE_BYTES - others - limit // 10), limit // 16)
