"""Pure. Replays a trace through the memory of a node."""

from __future__ import annotations

from typing import NamedTuple

from bench.traces.traces import Trace
from milena_cache.memory.lru import Memory
from milena_cache.objects.entry import ENTRY_OVERHEAD, Entry

UNLIMITED = 2**60


class Ratios(NamedTuple):
    """Hits as shares of the reads, and of their bytes."""

    hits: float
    bytes: float


def contents(trace: Trace) -> int:
    """Return the bytes that all objects of the trace take in memory; their number if they have no sizes."""
    number = max(trace.objects) + 1
    if trace.sizes is None:
        return number
    return sum(trace.sizes) + sum(ENTRY_OVERHEAD + len(_key(each)) for each in range(number))


def replay(trace: Trace, share: float, policy: str) -> Ratios:
    """Return the ratios of hits, if the memory holds `share` (0 to 1) of all objects, or of their bytes."""
    limit = max(1, int(contents(trace) * share))
    memory = Memory(limit, UNLIMITED, policy) if trace.sizes is None else Memory(UNLIMITED, limit, policy)
    keys = [_key(number) for number in range(max(trace.objects) + 1)]
    sizes = trace.sizes
    hits = bytes_hit = bytes_read = 0
    for number in trace.objects:
        key = keys[number]
        size = 0 if sizes is None else sizes[number]
        bytes_read += size
        if memory.get(key) is not None:
            hits += 1
            bytes_hit += size
        else:
            memory.store(key, Entry(bytes(size), "", 0.0, 0))
    ratio = hits / len(trace.objects)
    return Ratios(ratio, bytes_hit / bytes_read if bytes_read else ratio)


def _key(number: int) -> bytes:
    return b"%d" % number
