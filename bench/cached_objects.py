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

from milena_cache.bucket_watch import BucketWatch
from milena_cache.buckets import Buckets
from milena_cache.doors.grpc import OPERATIONS, SERVICE, CacheService
from milena_cache.freshness import Freshness
from milena_cache.memory import Entry, Memory
from milena_cache.node import Node
from milena_cache.origin import Origin, OriginCounts
from milena_cache.report import Report
from milena_common.addresses import Address
from milena_common.calls import CallCounts
from milena_common.clock import SystemClock
from milena_common.grpc_door import GrpcDoor
from tests.support.memory_store import MemoryStore

VALUE_BYTES = 100
BUCKETS = Buckets("bench")


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
    """A node around `memory` in which nothing grows old, and behind which there is an empty S3."""
    store = MemoryStore(BUCKETS.default)
    return Node(
        store=store,
        writer=Origin(store, SystemClock(), random.random, retries=0, concurrency=1, place_timeout=1),
        memory=memory,
        freshness=Freshness(ttl=1e9, jitter=0.1, grace=0, keep=0, stale_if_error=0, negative_ttl=0),
        buckets=BUCKETS,
        clock=SystemClock(),
        max_value_bytes=2**20,
        revalidate_timeout=1,
    )


async def serve(number: int) -> None:
    clock = SystemClock()
    policy = node(filled_memory(number))
    calls = CallCounts(OPERATIONS)
    watch = BucketWatch(MemoryStore(BUCKETS.default), BUCKETS.default, clock, random.random)
    report = Report(policy, OriginCounts(), calls, watch, lambda: False, clock)
    door = GrpcDoor(SERVICE, 2**20, 2**30)
    address = str(door.bind(Address("127.0.0.1", 0), "port"))
    await door.start(CacheService(policy, BUCKETS, address, 5, report).methods(), calls)
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
