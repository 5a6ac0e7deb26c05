"""Shell. Measures the goodput of a node's RESP port and the router's gRPC port under overload.

    python -m bench.programs.overload [--port resp|grpc] [--connections N] [--seconds 8]

Open loop: requests are sent at a fixed rate, independent of responses. First the rate is raised by steps until less
than 95 % of the requests succeed within DEADLINE; the highest success rate is the peak. Then 2 and 4 times the peak
are offered. Printed for each: successes within DEADLINE per second and in % of the peak, their latency, rejections
by status and their latency, memory of the server process, and the share of a core that this generator used: where
that is near 100 % the generator is the bottleneck. Servers have one core, the generator the others. Exit code 1 if
the goodput or the latency misses its bar, or the node lost its lease.

The generators send prepared requests and only count responses, since a client library costs more than the servers:
RESP over `--connections`, by default 50 or 8; gRPC as HTTP/2 frames, in at most as many streams as the server
allows, cancelled at their deadline as gRPC clients do.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc
import uvloop

from bench.cores import apart
from bench.peers.stub_process import StubProcess
from bench.programs.memory_bursts import memory
from milena_client import Milena
from milena_common.api.methods import GET
from tests.support.cluster import Cluster

BUCKET = "bench"
DEADLINE = 2.0  # seconds
CONNECTIONS = {"resp": 50, "grpc": 8}
KEYS = [b"k%03d" % number for number in range(500)]
VALUE = b"v" * 100
TICK = 0.001  # seconds between writes
BATCH = 50  # RESP commands in one write at most
RISE = 1.3
# Goodput in % of the peak, by times of the peak offered.
BARS = {"resp": {2: 70.0, 4: 40.0}, "grpc": {2: 70.0, 4: 40.0}}


@dataclass
class Seen:
    """The counts of one run. Times are in seconds."""

    sent: int = 0
    latencies: list[tuple[float, int]] = field(default_factory=list)  # of responses with a value, and their number
    rejection_times: list[tuple[float, int]] = field(default_factory=list)
    rejections: Counter[str] = field(default_factory=Counter)
    open: bool = True  # responses after the end of the load are not counted

    def responded(self, age: float, number: int) -> None:
        if self.open:
            self.latencies.append((age, number))

    def rejected(self, status: str, age: float, number: int = 1) -> None:
        self.rejections[status] += number
        self.rejection_times.append((age, number))


def percentile(times: list[tuple[float, int]], share: float) -> float:
    """Return the weighted percentile, in seconds; nan if there is none."""
    rest = sum(number for _, number in times) * share
    for age, number in sorted(times):
        rest -= number
        if rest <= 0:
            return age
    return float("nan")


class RespLoad(asyncio.Protocol):
    """One connection. Replies are counted by their bytes: `$` occurs once in a value, never in an error."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._waiting: deque[tuple[float, int]] = deque()  # time of sending, number
        self._lines = self._values = self._errors = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, number: int, now: float) -> None:
        first = self._seen.sent % len(KEYS)
        self._waiting.append((now, number))
        self._transport.write(_GETS[first][: number * len(_GET % 0)])

    def tick(self, now: float) -> None:
        """Do nothing: late replies are detected by their age."""

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        values = data.count(b"$")
        self._values += values
        self._lines += data.count(b"\n")
        errors = max(0, self._lines - 2 * self._values - self._errors)
        self._errors += errors
        left = values + errors
        # Values and errors of one read are assumed to be evenly mixed.
        while left and self._waiting:
            began, number = self._waiting[0]
            taken = min(left, number)
            good = min(values, round(taken * values / (values + errors))) if errors else taken
            self._seen.responded(now - began, good)
            if taken > good:
                self._seen.rejected("BUSY" if b"-BUSY" in data else "error", now - began, taken - good)
            left -= taken
            if taken == number:
                self._waiting.popleft()
            else:
                self._waiting[0] = (began, number - taken)


_GET = b"*2\r\n$3\r\nGET\r\n$4\r\nk%03d\r\n"
_GETS = [b"".join(_GET % ((first + number) % len(KEYS)) for number in range(BATCH)) for first in range(len(KEYS))]


def _literal(name: bytes, value: bytes) -> bytes:
    """Return a header in HPACK, neither compressed nor indexed."""
    return b"\x00%c%b%c%b" % (len(name), name, len(value), value)


_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_HEADER_TABLE_SIZE, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 1, 3, 4
_CANCEL = 8
_REQUEST_HEADERS = b"\x83\x86" + b"".join(  # POST, http
    (
        _literal(b":path", GET.router_path.encode()),
        _literal(b":authority", b"localhost"),
        _literal(b"content-type", b"application/grpc"),
        _literal(b"te", b"trailers"),
        _literal(b"grpc-timeout", b"%dm" % (DEADLINE * 1000)),
    )
)
_STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class GrpcLoad(asyncio.Protocol):
    """One HTTP/2 connection, with the part of RFC 9113 that these calls need."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._data = b""
        self._stream = 1
        self._limit = 100
        self._window = 65_535
        self._open: dict[int, float] = {}  # streams and when their calls were made, oldest first
        self._queue: deque[float] = deque()  # calls that wait for a stream
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        settings = ((_HEADER_TABLE_SIZE, 0), (_INITIAL_WINDOW_SIZE, 2**31 - 1))
        payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in settings)
        self._transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, payload)
            + _frame(_WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))
        )

    def send(self, number: int, now: float) -> None:
        self._queue.extend([now] * number)
        self._begin()

    def tick(self, now: float) -> None:
        """End the calls whose deadline has passed, as gRPC clients do."""
        late = now - DEADLINE
        while self._queue and self._queue[0] <= late:
            self._seen.rejected("DEADLINE_EXCEEDED", now - self._queue.popleft())
        finished = []
        for stream, began in self._open.items():
            if began > late:
                break
            finished.append(stream)
        for stream in finished:
            self._seen.rejected("DEADLINE_EXCEEDED", now - self._open.pop(stream))
        self._transport.write(
            b"".join(_frame(_RST_STREAM, 0, each, _CANCEL.to_bytes(4, "big")) for each in finished)
        )
        self._begin()

    def _begin(self) -> None:
        frames = []
        while self._queue and len(self._open) < self._limit and self._window > 100:
            key = KEYS[self._stream // 2 % len(KEYS)]
            message = b"\x00\x00\x00\x00\x06\x0a\x04" + key
            frames.append(_frame(_HEADERS, _END_HEADERS, self._stream, _REQUEST_HEADERS))
            frames.append(_frame(_DATA, _END_STREAM, self._stream, message))
            self._window -= len(message)
            self._open[self._stream] = self._queue.popleft()
            self._stream += 2
        if frames:
            self._transport.write(b"".join(frames))

    def data_received(self, data: bytes) -> None:
        data = self._data + data
        at, now = 0, time.monotonic()
        while len(data) - at >= 9:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if len(data) < end:
                break
            kind, flags, stream = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big")
            self._received(kind, flags, stream, data[at + 9 : end], now)
            at = end
        self._data = data[at:]
        self._begin()

    def _received(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if kind == _HEADERS and flags & _END_STREAM:
            began = self._open.pop(stream, None)
            if began is None:
                return
            length, *digits = payload.partition(b"grpc-status")[2][:3] or b"\x012"
            status = int(bytes(digits[:length]))
            if status:
                self._seen.rejected(_STATUS_NAMES[status], now - began)
            else:
                self._seen.responded(now - began, 1)
        elif kind == _RST_STREAM:
            began = self._open.pop(stream, None)
            if began is not None:
                self._seen.rejected(f"RST_STREAM {payload[-1]}", now - began)
        elif kind == _SETTINGS and not flags & _ACK:
            for place in range(0, len(payload), 6):
                if int.from_bytes(payload[place : place + 2], "big") == _MAX_CONCURRENT_STREAMS:
                    self._limit = int.from_bytes(payload[place + 2 : place + 6], "big")
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and not stream:
            self._window += int.from_bytes(payload, "big")


@dataclass
class Result:
    """One run at one rate."""

    offered: float  # requests per second
    goodput: float  # successes within DEADLINE, per second
    load: float  # share of a core that the generator used
    seen: Seen

    def __str__(self) -> str:
        seen = self.seen
        rejected = ", ".join(f"{name} {number}" for name, number in seen.rejections.most_common())
        return (
            f"offered {self.offered:8,.0f}/s  in time {self.goodput:8,.0f}/s  "
            f"p50 {percentile(seen.latencies, 0.5) * 1e3:.1f} p99 {percentile(seen.latencies, 0.99) * 1e3:.1f} ms  "
            f"generator {self.load:.0%} of a core  "
            + (rejected and f"rejected: {rejected} after p50 {percentile(seen.rejection_times, 0.5) * 1e3:.1f} ms")
        )


async def load(port: str, address: tuple[str, int], connections: int, rate: float, seconds: float) -> Result:
    """Offer `rate` requests per second for `seconds`, and wait until their deadlines have passed."""
    seen = Seen()
    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(lambda: (RespLoad if port == "resp" else GrpcLoad)(seen), *address))
        for _ in range(connections)
    ]
    loads = [protocol for _, protocol in made]
    await asyncio.sleep(0.1)  # the server's settings
    began, processor = time.monotonic(), time.process_time()
    turn = 0
    while (now := time.monotonic()) < began + seconds:
        due = int((now - began) * rate)
        while seen.sent < due:
            number = min(BATCH, due - seen.sent) if port == "resp" else 1
            loads[turn % len(loads)].send(number, now)
            turn += 1
            seen.sent += number
        for each in loads:
            each.tick(now)
        await asyncio.sleep(TICK)
    took, used = time.monotonic() - began, time.process_time() - processor
    goodput = sum(number for age, number in seen.latencies if age <= DEADLINE) / took
    stop_at = time.monotonic() + DEADLINE + 0.5
    while time.monotonic() < stop_at:
        for each in loads:
            each.tick(time.monotonic())
        await asyncio.sleep(0.01)
    for transport, _ in made:
        transport.close()
    return Result(seen.sent / took, goodput, used / took, seen)


def measure(port: str, cluster: Cluster, connections: int, seconds: float) -> bool:
    """Find the peak of a port and offer more; True if all bars are met."""
    node, router = cluster.nodes[0], cluster.router
    requested = node if port == "resp" else router
    host, _, number = (node.resp if port == "resp" else router.address).rpartition(":")
    address = (host, int(number))
    rate, peak = (20_000.0 if port == "resp" else 500.0), 0.0
    while True:
        result = uvloop.run(load(port, address, connections, rate, 3))
        print(f"{port} {result}", flush=True)
        peak = max(peak, result.goodput)
        if result.goodput < 0.95 * rate:
            break
        rate *= RISE
    fine = True
    for times, bar in BARS[port].items():
        before, ring = memory(requested, "VmRSS"), router.metrics().value("milena_router_ring_epoch")
        result = uvloop.run(load(port, address, connections, times * peak, seconds))
        share = 100 * result.goodput / peak
        late = percentile(result.seen.latencies, 0.99) > DEADLINE + 0.02  # 0.02 s: one iteration of the generator
        kept = router.metrics().value("milena_router_ring_epoch") == ring
        fine = fine and share >= bar and not late and kept
        print(
            f"{port} {times} x: {share:.0f} % of the peak (bar {bar:.0f}), {result}, "
            f"memory {before:.0f} -> {memory(requested, 'VmRSS'):.0f}, "
            f"at most {memory(requested, 'VmHWM'):.0f} MiB, "
            f"lease {'kept' if kept else 'LOST'}",
            flush=True,
        )
    return fine


def main() -> int:
    """Measure the ports and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", choices=("resp", "grpc"))
    parser.add_argument("--connections", type=int)
    parser.add_argument("--seconds", type=float, default=8)
    chosen = parser.parse_args()
    fine = True
    for port in (chosen.port,) if chosen.port else ("resp", "grpc"):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            with StubProcess(directory) as s3, Cluster(directory, s3.endpoint_url, BUCKET, 1) as cluster:
                with Milena(cluster.router.address) as client:
                    for key in KEYS:
                        client.set(key.decode(), VALUE)
                servers = [cluster.router.pid, *(node.pid for node in cluster.nodes)]
                with apart(servers, []):
                    fine = measure(port, cluster, chosen.connections or CONNECTIONS[port], chosen.seconds) and fine
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
