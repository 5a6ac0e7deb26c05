"""Shell. `python -m tests.e2e.redis.fuzz --commands 1000000 --seed 1`: random commands, to Redis and to a node.

The node is in this process, over a fake S3 and in the class `memory`, and gets the same bytes as the redis-server
of this machine. Every reply must be the same, in RESP2 and in RESP3; TTL and PTTL may differ a little.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from bench.peers.redis_server import RedisServer
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient
from tests.e2e.redis.random_commands import Commands
from tests.e2e.redis.wire import Wire
from tests.support.fake_clock import FakeClock

AT_ONCE = 200
# Beginnings of replies that docs/protocol.md lists as different.
LISTED = (b"-ERR LCS of values of ",)
# Milliseconds that may pass between a command on one server and on the other.
NEAR = 600_000
MIB = 2**20


async def compare(address: str, number: int, seed: int, protocol: int, *, transactions: bool) -> list[str]:
    """Send `number` random commands to both; return the first differences."""
    clock = FakeClock(wall=time.time())
    server = ServerUnderTest(mode="memory", dirty_max_bytes=512 * MIB, dirty_memory_bytes=512 * MIB, clock=clock)
    ours = server.connect(resp3=protocol == 3)
    differences: list[str] = []
    with Wire(address) as theirs:
        theirs.say("FLUSHALL")
        theirs.say("SCRIPT FLUSH")
        if protocol == 3:
            theirs.say("HELLO 3")
        msetex = b"$6\r\nmsetex" in theirs.say("COMMAND INFO msetex")  # Redis 8.4
        commands = iter(Commands(seed, transactions=transactions, msetex=msetex))
        while number > 0 and len(differences) < 10:
            batch = list(islice(commands, min(number, AT_ONCE)))
            number -= len(batch)
            data = b"".join(command(*argv) for argv in batch)
            replies = _split(theirs.send(data, len(batch)))
            for argv, own, other in zip(batch, await _replies(ours, data, len(batch)), replies, strict=True):
                if own != other and not _near(own, other) and not own.startswith(LISTED):
                    differences.append(f"{argv}: ours {own!r}, Redis's {other!r}")
    return differences


async def _replies(client: WireClient, data: bytes, number: int) -> list[bytes]:
    client.take()
    client.send(data)
    return _split(await client.replies(number))


def _split(data: bytes) -> list[bytes]:
    """Return the bytes of each of the replies."""
    found: list[bytes] = []
    while data:
        end = _end(data, 0)
        found.append(data[:end])
        data = data[end:]
    return found


def _end(data: bytes, at: int) -> int:
    line_end = data.index(b"\r\n", at) + 2
    kind = data[at : at + 1]
    if kind == b"$":
        size = int(data[at + 1 : line_end - 2])
        return line_end if size < 0 else line_end + size + 2
    if kind in b"*%":
        number = int(data[at + 1 : line_end - 2])
        for _ in range(max(0, number) * (2 if kind == b"%" else 1)):
            line_end = _end(data, line_end)
    return line_end


def _near(own: bytes, other: bytes) -> bool:
    """True if the replies differ in times only: numbers of more than a day, in seconds or milliseconds."""
    numbers, others = (list(map(int, re.findall(rb"(?m)^:(\d+)\r$", reply))) for reply in (own, other))
    if re.sub(rb"(?m)^:\d+\r$", b"", own) != re.sub(rb"(?m)^:\d+\r$", b"", other) or len(numbers) != len(others):
        return False
    return all(
        one == two or (min(one, two) > 500 and abs(one - two) <= NEAR)
        for one, two in zip(numbers, others, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--transactions", action="store_true")
    options = parser.parse_args()
    failed = False
    began = time.process_time()
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory), durable=False) as redis:
        for protocol in (2, 3):
            for line in asyncio.run(
                compare(
                    redis.address,
                    options.commands // 2,
                    options.seed + protocol,
                    protocol,
                    transactions=options.transactions,
                )
            ):
                failed = True
                print(f"RESP{protocol}: {line}")
    print(f"{options.commands} commands, {time.process_time() - began:.1f} s of processor time")
    sys.exit(failed)


if __name__ == "__main__":
    main()
