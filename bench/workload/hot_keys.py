"""Shell. Objects that are in memory before they are read, in a node and in a Redis server.

Both get the same keys and sizes: a node reads them from the S3 stub, and a Redis server gets them by SET.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

from bench.peers.redis_benchmark import COUNTER, hot_key
from bench.peers.resp_pipeline import connect
from bench.workload.new_objects import VALUE_BYTES
from milena_client import Milena
from milena_common.network.addresses import parse_address
from milena_common.resp.encoding import command

# Half of a node's default LRU_SIZE.
NUMBER = 5_000
HOT_KEYS = [hot_key(number).decode() for number in range(NUMBER)]
SECONDS = 10.0
# The number of large values of each size.
_LARGE = 2


def large_keys(size: int) -> list[str]:
    """Return the keys of the values with `size` bytes."""
    return [f"large/{size}/{number}" for number in range(_LARGE)]


def warm(address: str) -> None:
    """Read the hot keys, which exist in S3, through the router at `address`."""
    with Milena(address) as client:
        assert len(client.get_many(HOT_KEYS)) == NUMBER


def fill(address: str) -> None:
    """Write the hot keys to the Redis server at `address`, 1 KiB each."""
    asyncio.run(_write(address, ((key, bytes(VALUE_BYTES)) for key in HOT_KEYS)))


def fill_large(address: str, sizes: Iterable[int]) -> None:
    """Write values of `sizes` bytes to the server of the Redis protocol at `address`."""
    asyncio.run(_write(address, ((key, bytes(size)) for size in sizes for key in large_keys(size))))


def reset_counter(address: str) -> None:
    """Set the counter to 0 at the server of the Redis protocol at `address`."""
    asyncio.run(_write(address, [(COUNTER.decode(), b"0")]))


def read_counter(address: str) -> int:
    """Return the counter."""
    with socket.create_connection(parse_address(address), SECONDS) as connection:
        connection.sendall(command(b"GET", COUNTER))
        return int(connection.recv(4096).split(b"\r\n")[1])


async def _write(address: str, objects: Iterable[tuple[str, bytes]]) -> None:
    at = parse_address(address)
    pipeline = await connect(at.host, at.port)
    writes = [pipeline.set(key.encode(), value) for key, value in objects]
    await asyncio.gather(*writes)
    pipeline.close()
