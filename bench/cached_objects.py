"""Shell. A node's memory filled with very many objects, without the hours that filling it through S3 would take.

    python -m bench.cached_objects serve NUMBER    a node with so many objects cached; prints its gRPC address
    python -m bench.cached_objects weigh NUMBER    prints bytes of memory per object beyond its key and value

Values are 100 bytes, every key and value an object of its own, as they would be when they come off the network.
"""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import sys
import time
from pathlib import Path

from bench.node_parts import BUCKETS, NodeParts, node_parts
from milena_cache.bucket_watch import BucketWatch
from milena_cache.doors.grpc import OPERATIONS, SERVICE, CacheService
from milena_cache.memory import Entry, Memory
from milena_cache.node import Node
from milena_cache.report import Report
from milena_common.addresses import Address
from milena_common.calls import CallCounts
from milena_common.clock import SystemClock
from milena_common.grpc_door import GrpcDoor
from tests.support.memory_disk import MemoryDisk
from tests.support.memory_store import MemoryStore

VALUE_BYTES = 100


def key(number: int) -> bytes:
    """The key of the object with that number."""
    return b"objects/%010d" % number


def filled_memory(number: int) -> Memory:
    memory = Memory(max_entries=number, max_bytes=2**40)
    now = time.monotonic()
    for each in range(number):
        memory.put(key(each), Entry(each.to_bytes(VALUE_BYTES), f'"{each:032x}"', now, 0))
    return memory


def node(memory: Memory) -> Node:
    """A node around `memory`, behind which there is an empty S3."""
    return _parts(memory).node


def _parts(memory: Memory) -> NodeParts:
    return node_parts(MemoryStore(BUCKETS.default), MemoryDisk(), memory)


async def serve(number: int) -> None:
    clock = SystemClock()
    parts = _parts(filled_memory(number))
    calls = CallCounts(OPERATIONS)
    watch = BucketWatch(parts.origin, BUCKETS.default, clock, random.random)
    report = Report(
        parts.node, parts.origin.counts, calls, watch, parts.journal, parts.writeback, 300, lambda: False, clock
    )
    door = GrpcDoor(SERVICE, 2**20, 2**30)
    address = str(door.bind(Address("127.0.0.1", 0), "port"))
    service = CacheService(parts.node, parts.writeback, BUCKETS, address, 5, report)
    await door.start(service.methods(), calls)
    print(address, flush=True)
    await asyncio.Event().wait()


def weigh(number: int) -> float:
    gc.collect()
    before = _resident_bytes()
    memory = filled_memory(number)
    gc.collect()
    grown = _resident_bytes() - before
    assert len(memory) == number
    return grown / number - len(key(0)) - VALUE_BYTES


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        print("bytes per object:", weigh(int(sys.argv[2])))
