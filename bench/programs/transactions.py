"""Shell. Measures transactions of SETs at a server of the Redis protocol.

    python -m bench.programs.transactions HOST:PORT PID CONNECTIONS SETS SECONDS

Each connection sends MULTI, the given number of SETs of random keys, 1 KiB each, and EXEC at once, as the pipelines
of clients do, and the next transaction when it has the replies, which are verified. The server has that pid.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import Any, Final, cast

from bench.case import Samples
from bench.child import run_and_print
from bench.cores import processor_seconds
from bench.peers.redis_benchmark import hot_key
from bench.workload.hot_keys import NUMBER
from bench.workload.load import WARM_UP
from bench.workload.new_objects import VALUE_BYTES
from milena_common.network.addresses import parse_address
from milena_common.resp.encoding import command

_DRAWN: Final = 1_000


class _Connection(asyncio.Protocol):
    """One connection. `done`: how many transactions have their replies."""

    def __init__(self, transactions: list[bytes], reply: bytes) -> None:
        self._transactions = transactions
        self._reply = reply
        self._received = b""
        self._transport: asyncio.Transport
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(random.choice(self._transactions))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) < len(self._reply) and self._reply.startswith(self._received):
            return
        if self._received != self._reply:
            self.failed.set_exception(AssertionError(f"unexpected replies: {self._received[:200]!r}"))
            return
        self._received = b""
        self.done += 1
        self._transport.write(random.choice(self._transactions))

    def close(self) -> None:
        self._transport.abort()


async def measure(address: str, pid: int, connections: int, sets: int, seconds: float) -> Samples:
    value = bytes(VALUE_BYTES)

    def transaction() -> bytes:
        keys = [hot_key(random.randrange(NUMBER)) for _ in range(sets)]
        writes = b"".join(command(b"SET", key, value) for key in keys)
        return command(b"MULTI") + writes + command(b"EXEC")

    transactions = [transaction() for _ in range(_DRAWN)]
    reply = b"+OK\r\n" + b"+QUEUED\r\n" * sets + b"*%d\r\n" % sets + b"+OK\r\n" * sets
    at, loop = parse_address(address), asyncio.get_running_loop()
    opened: list[_Connection] = []
    for _ in range(connections):
        made: Any = await loop.create_connection(lambda: _Connection(transactions, reply), at.host, at.port)
        opened.append(made[1])

    async def run(length: float) -> int:
        before = sum(each.done for each in opened)
        finished, _ = await asyncio.wait(
            [each.failed for each in opened], timeout=length, return_when=asyncio.FIRST_COMPLETED
        )
        for each in finished:
            each.result()
        return sum(each.done for each in opened) - before

    await run(seconds * WARM_UP)
    started, cpu = time.perf_counter(), processor_seconds(pid)
    number = await run(seconds)
    worked, took = processor_seconds(pid) - cpu, time.perf_counter() - started
    for each in opened:
        each.close()
    return {"per_s": number / took, "server_us": worked / number * 1e6, "calls": float(number)}


if __name__ == "__main__":
    address, *numbers, seconds = sys.argv[1:]
    pid, connections, sets = map(int, numbers)
    run_and_print(measure(address, pid, connections, sets, float(seconds)))
