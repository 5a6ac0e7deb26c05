"""Shell. Fills a node's memory with very many objects, without the hours that reading them from S3 would take.

    python -m bench.nodes.cached_objects serve NUMBER BYTES    a node with so many values of so many bytes cached
    python -m bench.nodes.cached_objects weigh NUMBER  prints memory per object beyond its key and value, in bytes

The node prints the addresses of its servers. Every key and value is an object of its own, as if received from the
network.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from pathlib import Path

import uvloop

from bench.nodes.node_parts import BUCKETS, bench_config, node_parts
from milena_cache.app import NodeParts, build_servers, grpc_server, node_identity
from milena_cache.configuration.config import Config
from milena_cache.membership.ownership import Ownership
from milena_cache.memory.lru import Memory
from milena_cache.objects.entry import Entry
from milena_cache.reads.reader import Node
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS
from milena_common.network.addresses import Address
from milena_common.process.run import GC_THRESHOLD
from milena_common.runtime.clock import SystemClock
from tests.support.memory_disk import MemoryDisk
from tests.support.s3.memory_store import MemoryStore

# The default size of values in bytes: small, so that the overhead of objects dominates.
SMALL = 100


def key(number: int) -> bytes:
    """Return the key of the object with that number."""
    return b"objects/%010d" % number


def fill_memory(memory: Memory, number: int, value_bytes: int = SMALL) -> None:
    now = SystemClock.now()
    for each in range(number):
        memory.store(key(each), Entry(each.to_bytes(value_bytes), f'"{each:032x}"', now, 0))


def node(number: int) -> Node:
    """Return a node with `number` objects in memory, in front of an empty S3."""
    parts = _parts(_config(number))
    fill_memory(parts.memory, number)
    return parts.node


def _config(number: int) -> Config:
    return bench_config(max_entries=number, max_bytes=2**40, max_in_flight_bytes=2**30)


def _parts(config: Config) -> NodeParts:
    return node_parts(MemoryStore(BUCKETS.default), MemoryDisk(), config)


async def serve(number: int, value_bytes: int) -> None:
    config = _config(number)
    parts = _parts(config)
    fill_memory(parts.memory, number, value_bytes)
    identity = node_identity(config, parts, "bench")
    server = grpc_server(config, parts, identity)
    address = str(server.bind(Address("127.0.0.1", 0), "port"))
    servers = build_servers(config, parts, address, identity, lambda: False)
    _own_everything(servers.ownership, address)
    await server.start(servers.grpc_methods, servers.calls, pieces=servers.grpc_pieces)
    # Builds that are compared parse these titles of each other, so they stay.
    print(f"redis door: {await servers.resp.start(Address('127.0.0.1', 0))}", flush=True)
    print(f"grpc door: {address}", flush=True)
    await asyncio.Event().wait()


def _own_everything(ownership: Ownership, address: str) -> None:
    node = MapNode(address, address, "bench")
    ownership.update(SlotMap(1, BUCKETS.default, (node,), (MapRange(0, SLOTS - 1, node, 0),)))


def weigh(number: int) -> float:
    gc.collect()
    before = _resident_bytes()
    memory = Memory(max_entries=number, max_bytes=2**40)
    fill_memory(memory, number)
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
