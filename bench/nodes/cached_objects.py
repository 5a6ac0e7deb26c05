"""Shell. A node's memory filled with very many objects, without the hours that filling it through S3 would take.

    python -m bench.nodes.cached_objects serve NUMBER BYTES    a node with so many values of so many bytes cached
    python -m bench.nodes.cached_objects weigh NUMBER  prints memory per object beyond its key and value, in bytes

The node prints the addresses of its doors. Every key and value is an object of its own, as they would be when they
come off the network.
"""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import sys
import time
from pathlib import Path

import uvloop

from bench.nodes.node_parts import BUCKETS, NodeParts, node_parts
from milena_cache.configuration.config import load
from milena_cache.membership.identity import NodeIdentity
from milena_cache.membership.ownership import Ownership
from milena_cache.memory.lru import Entry, Memory
from milena_cache.origin.bucket_check import BucketCheck
from milena_cache.origin.s3.clock import CorrectedClock, S3Clock
from milena_cache.reads.reader import Node
from milena_cache.servers.grpc.methods import OPERATIONS, SERVICE, CacheService
from milena_cache.servers.resp.assembly import resp_server
from milena_cache.service.status import Status
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.token_bucket import TokenBucket
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.process.env import Environment
from milena_common.process.run import GC_THRESHOLD
from milena_common.rpc.server import GrpcServer
from milena_common.runtime.clock import SystemClock
from tests.support.memory_disk import MemoryDisk
from tests.support.s3.memory_store import MemoryStore

# Of values whose size is not told: small, so that it is the objects that count.
SMALL = 100
_VARIABLES = {"ROUTER_ADDR": "http://127.0.0.1:50050", "S3_BUCKET": BUCKETS.default, "AWS_REGION": "us-east-1"}


def key(number: int) -> bytes:
    """The key of the object with that number."""
    return b"objects/%010d" % number


def filled_memory(number: int, value_bytes: int = SMALL) -> Memory:
    memory = Memory(max_entries=number, max_bytes=2**40)
    now = time.monotonic()
    for each in range(number):
        memory.store(key(each), Entry(each.to_bytes(value_bytes), f'"{each:032x}"', now, 0))
    return memory


def node(memory: Memory) -> Node:
    """A node around `memory`, behind which there is an empty S3."""
    return _parts(memory).node


def _parts(memory: Memory) -> NodeParts:
    return node_parts(MemoryStore(BUCKETS.default), MemoryDisk(), memory)


async def serve(number: int, value_bytes: int) -> None:
    clock = CorrectedClock(SystemClock(), S3Clock())
    parts = _parts(filled_memory(number, value_bytes))
    calls = CallCounts((*OPERATIONS, "other"))
    watch = BucketCheck(parts.origin, BUCKETS.default, clock, random.random)
    status = Status(
        parts.node, parts.origin.counts, calls, watch, parts.journal, parts.writeback, 300, lambda: False, clock
    )
    server = GrpcServer(SERVICE, 2**20, ByteBudget(2**30), 5)
    address = str(server.bind(Address("127.0.0.1", 0), "port"))
    service = CacheService(parts.node, parts.writeback, BUCKETS, address, 5, status)
    await server.start(service.methods(), calls)
    redis = resp_server(
        config=load(Environment(_VARIABLES), 2**30),
        node=parts.node,
        buckets=BUCKETS,
        ownership=_owner_of_everything(address),
        service=service,
        status=status,
        calls=calls,
        limiter=TokenBucket(0, clock.now()),
        identity=NodeIdentity(BUCKETS.default, "bench"),
        clock=clock,
        budget=ByteBudget(2**30),
    )
    print(f"redis door: {await redis.start(Address('127.0.0.1', 0))}", flush=True)
    print(f"grpc door: {address}", flush=True)
    await asyncio.Event().wait()


def _owner_of_everything(address: str) -> Ownership:
    node = MapNode(address, address, "bench")
    ownership = Ownership(address)
    ownership.update(SlotMap(1, BUCKETS.default, (node,), (MapRange(0, SLOTS - 1, node, 0),)))
    return ownership


def weigh(number: int) -> float:
    gc.collect()
    before = _resident_bytes()
    memory = filled_memory(number)
    gc.collect()
    grown = _resident_bytes() - before
    assert len(memory) == number
    return grown / number - len(key(0)) - SMALL


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        gc.set_threshold(*GC_THRESHOLD)  # as in a node's process
        uvloop.run(serve(int(sys.argv[2]), int(sys.argv[3])))
    else:
        print("bytes per object:", weigh(int(sys.argv[2])))
