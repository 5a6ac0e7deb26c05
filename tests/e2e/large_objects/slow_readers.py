"""Slow readers of objects of 1 GiB by every port of a node, and the memory that they take of it.

    python -m tests.e2e.large_objects.slow_readers [READERS [SECONDS]]

starts S3 (the stub of the benchmarks, which makes its objects as they are read) and a node for each port, with
small limits. READERS (50) connections each request an object of their own and take 64 KiB of it in every tenth of a
second, for SECONDS (20): without backpressure the node would hold all that they have requested. The peak memory of
the process is compared with its limits, and every byte with the object.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import grpc

from bench.peers.s3_objects import Repeated, synthetic_seed
from bench.peers.stub_process import StubProcess
from milena_common.api.byte_range import MAX_PART_BYTES
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.api.pb import cache_server_pb2_grpc
from milena_common.network.addresses import parse_address
from milena_common.resp.encoding import command
from milena_common.rpc.status import is_shed
from tests.support.cluster import Cluster
from tests.support.processes import Node

MIB = 2**20
SIZE = 1024 * MIB
BUCKET = "slow"
LRU, IN_FLIGHT = 64, 128
# What allocators and the interpreter take beyond what is counted.
SLACK = 1.25
VARIABLES = {
    "LRU_BYTES": f"{LRU}MiB",
    "DIRTY_MEMORY_BYTES": "16MiB",
    "MAX_IN_FLIGHT_BYTES": f"{IN_FLIGHT}MiB",
    "S3_ANONYMOUS": "true",
    # As the image sets them.
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}
PIECE = 64 * 1024
PAUSE_SECONDS = 0.1

# Reads an object from its beginning on, slowly, until it is cancelled; returns the bytes that were right.
Reader = Callable[[Node, str, "Progress"], Awaitable[None]]


class Progress:
    """What one reader has read: `read` bytes, `wrong`: True if any of them was not that of the object."""

    def __init__(self, key: str) -> None:
        self.read = 0
        self.wrong = False
        self._object = Repeated(synthetic_seed(f"/{BUCKET}/{key}"), SIZE)

    def add(self, data: bytes) -> None:
        self.wrong = self.wrong or data != bytes(self._object[self.read : self.read + len(data)])
        self.read += len(data)


class Found(NamedTuple):
    """read, wrong: of all readers; peak, allowed: memory of the node, in MiB."""

    read: int
    wrong: int
    peak: float
    allowed: float


async def read_by_resp(node: Node, key: str, progress: Progress, part: int = MIB) -> None:
    """Read by GETRANGE, `part` bytes at a time."""
    at = parse_address(node.resp)
    reader, writer = await asyncio.open_connection(at.host, at.port, limit=PIECE)
    try:
        while progress.read < SIZE:
            first = progress.read
            writer.write(command(b"GETRANGE", key.encode(), b"%d" % first, b"%d" % (first + part - 1)))
            head = await reader.readline()
            if head.startswith((b"-BUSY", b"-ORIGINDOWN")):
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            assert head.startswith(b"$"), head
            await _take(reader, int(head[1:]), progress)
            assert await reader.readexactly(2) == b"\r\n"
    finally:
        writer.close()


async def read_large_parts(node: Node, key: str, progress: Progress) -> None:
    """Read by GETRANGE of the largest parts that are allowed."""
    await read_by_resp(node, key, progress, MAX_PART_BYTES)


async def read_by_s3(node: Node, key: str, progress: Progress) -> None:
    """Read by a GET of the whole object."""
    at = parse_address(node.s3)
    reader, writer = await asyncio.open_connection(at.host, at.port, limit=PIECE)
    try:
        writer.write(f"GET /{BUCKET}/{key} HTTP/1.1\r\nHost: {node.s3}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await _take(reader, SIZE, progress)
    finally:
        writer.close()


async def read_by_grpc(node: Node, key: str, progress: Progress) -> None:
    """Read by Read, piece by piece."""
    async with grpc.aio.insecure_channel(node.address) as channel:
        read = cache_server_pb2_grpc.CacheStub(channel).Read
        while progress.read < SIZE:
            try:
                async for piece in read(pb.GetRequest(key=key.encode(), offset=progress.read)):
                    for at in range(0, len(piece.value), PIECE):
                        progress.add(piece.value[at : at + PIECE])
                        await asyncio.sleep(PAUSE_SECONDS)
            except grpc.aio.AioRpcError as error:
                busy = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE
                if error.code() not in busy and not is_shed(error.code(), error.details()):
                    raise
                await asyncio.sleep(PAUSE_SECONDS)


async def _take(reader: asyncio.StreamReader, size: int, progress: Progress) -> None:
    while size:
        data = await reader.readexactly(min(PIECE, size))
        size -= len(data)
        progress.add(data)
        await asyncio.sleep(PAUSE_SECONDS)


READERS: Mapping[str, Reader] = {
    "resp": read_by_resp,
    "resp, 4 MiB": read_large_parts,
    "s3": read_by_s3,
    "grpc": read_by_grpc,
}


def memory(node: Node, field: str) -> float:
    """Return the memory of a node in MiB: `VmRSS`, current, or `VmHWM`, peak."""
    lines = Path(f"/proc/{node.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


def read_slowly(directory: Path, port: str, readers: int, seconds: float) -> Found:
    """Read `readers` objects by `port` for `seconds`."""
    with (
        StubProcess(directory, synthetic=SIZE) as s3,
        Cluster(directory, s3.endpoint_url, BUCKET, 1, node_env=VARIABLES) as cluster,
    ):
        node = cluster.nodes[0]
        allowed = SLACK * (memory(node, "VmRSS") + LRU + IN_FLIGHT)
        all_progress = asyncio.run(_read_all(node, READERS[port], readers, seconds))
        wrong = sum(progress.wrong for progress in all_progress)
        return Found(sum(progress.read for progress in all_progress), wrong, memory(node, "VmHWM"), allowed)


async def _read_all(node: Node, reader: Reader, readers: int, seconds: float) -> list[Progress]:
    keys = [f"object-{number}" for number in range(readers)]
    all_progress = [Progress(key) for key in keys]
    tasks = [
        asyncio.ensure_future(reader(node, key, progress)) for key, progress in zip(keys, all_progress, strict=True)
    ]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in done:
        task.result()
    return all_progress


def main() -> int:
    readers = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    fine = True
    for port in READERS:
        with TemporaryDirectory() as directory:
            found = read_slowly(Path(directory), port, readers, seconds)
        fine = fine and not found.wrong and found.peak <= found.allowed
        print(
            f"{port}: {readers} readers, {found.read / MIB:.0f} MiB read, {found.wrong} with wrong bytes; "
            f"node's peak {found.peak:.0f} MiB, allowed {found.allowed:.0f}",
            flush=True,
        )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
