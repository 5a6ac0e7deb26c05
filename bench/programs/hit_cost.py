"""Shell. Measures the processor time of a server of the Redis protocol for a hit.

    python -m bench.programs.hit_cost HOST:PORT PID CONNECTIONS KEYS SECONDS

The server with that pid has the given number of keys of `bench.nodes.cached_objects` in memory. One GET of a random
key is in flight at a time, on each connection in turn.
"""

from __future__ import annotations

import random
import resource
import socket
import sys
import time
from contextlib import ExitStack
from itertools import cycle

from bench.case import Samples
from bench.child import print_samples
from bench.cores import processor_seconds
from bench.nodes.cached_objects import key
from bench.workload.load import WARM_UP
from milena_common.network.addresses import parse_address

_DRAWN = 20_000


def measure(address: str, pid: int, connections: int, keys: int, seconds: float) -> Samples:
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    names = [key(random.randrange(keys)) for _ in range(_DRAWN)]
    commands = cycle([b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name) for name in names])
    with ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_connection(parse_address(address), 10)) for _ in range(connections)
        ]
        for each in opened:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _get(each, next(commands))
        in_turn = cycle(opened)

        def calls(length: float) -> int:
            number, stop = 0, time.perf_counter() + length
            while time.perf_counter() < stop:
                _get(next(in_turn), next(commands))
                number += 1
            return number

        calls(seconds * WARM_UP)
        started, cpu = time.perf_counter(), processor_seconds(pid)
        number = calls(seconds)
        worked, took = processor_seconds(pid) - cpu, time.perf_counter() - started
    return {"cpu_us": worked / number * 1e6, "per_s": number / took}


def _get(connection: socket.socket, command: bytes) -> None:
    connection.sendall(command)
    response = connection.recv(65536)
    head, _, rest = response.partition(b"\r\n")
    length = int(head.removeprefix(b"$"))  # raises ValueError for an error reply
    assert length >= 0, "not in memory"
    missing = length + 2 - len(rest)
    while missing:
        missing -= len(connection.recv(missing))


if __name__ == "__main__":
    address, *numbers, seconds = sys.argv[1:]
    pid, connections, keys = map(int, numbers)
    print_samples(measure(address, pid, connections, keys, float(seconds)))
