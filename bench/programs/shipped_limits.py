"""Shell. Bursts of large puts against router and node, in memory cgroups of the size that is shipped.

    python -m bench.programs.shipped_limits [--stack compose|kubernetes] [--count 200] [--mib 64] [--huge-mib 5000]

For each port (the router's gRPC, a node's gRPC and its Redis protocol) a router and a node of its own are started
with the defaults, but no rate limit, each in a control group with the memory limit of that stack. Then `--count`
puts of `--mib` MiB are sent at once, each over its own connection; over gRPC once with their size in the metadata
and once without; and then one put of `--huge-mib` MiB without an announced size. Exit code 1 if a process ends, if
the next small put fails, or if a rejection does not name a limit. S3 is a stub that keeps no large values. Needs
Linux, root, and writable control groups of version 1 or 2.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench.peers.stub_process import ROOT, StubProcess
from bench.programs.raw_puts import Outcome, put_grpc, put_resp
from milena_client import Milena
from milena_common.api.methods import PUT
from tests.support.ports import ReservedPort
from tests.support.s3.moto_server import AWS_VARIABLES
from tests.support.waiting import wait_until

MIB = 2**20
# Memory limits of router and node in MiB, as in docker-compose.yml and k8s/base.
LIMITS = {"compose": (512, 1024), "kubernetes": (1024, 2048)}
# As the image sets them.
MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
HOST = "127.0.0.1"
BUCKET = "bench"
SAMPLE_SECONDS = 0.02
ROUTER, NODE, REDIS = "router gRPC", "node gRPC", "node RESP"


class Group:
    """A control group for one process, with `limit` bytes of memory."""

    def __init__(self, name: str, limit: int) -> None:
        v1 = Path("/sys/fs/cgroup/memory")
        self._v1 = v1.is_dir()
        self._path = (v1 if self._v1 else Path("/sys/fs/cgroup")) / name
        self._path.mkdir()
        self._write("memory.limit_in_bytes" if self._v1 else "memory.max", str(limit))
        self.anonymous_peak = 0

    def _write(self, name: str, text: str) -> None:
        (self._path / name).write_text(text)

    @property
    def procs(self) -> Path:
        """Return the file to which the pids of the group's processes are written."""
        return self._path / "cgroup.procs"

    def _numbers(self, name: str) -> dict[str, int]:
        lines = (line.split() for line in (self._path / name).read_text().splitlines())
        return {argv[0]: int(argv[1]) for argv in lines if len(argv) == 2 and argv[1].isdigit()}

    def sample(self) -> None:
        """Sample the memory that cannot be reclaimed, without pages of files."""
        self.anonymous_peak = max(self.anonymous_peak, self._numbers("memory.stat")["rss" if self._v1 else "anon"])

    @property
    def kills(self) -> int:
        """Return the number of processes killed for lack of memory."""
        return self._numbers("memory.oom_control" if self._v1 else "memory.events").get("oom_kill", 0)

    def remove_group(self) -> None:
        with suppress(OSError):
            self._path.rmdir()


class Member:
    """A router or node in its own group; its log is in `directory`."""

    def __init__(self, module: str, limit: int, variables: dict[str, str], directory: Path) -> None:
        self.group = Group(f"milena-{module}-{os.getpid()}", limit)
        directory.mkdir()
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f'echo $$ > {self.group.procs} && exec "$@"', "sh", sys.executable, "-m", module],
                env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), **MALLOC, **variables},
                cwd=directory,
                stdout=log,
                stderr=log,
            )

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.group.remove_group()


@contextmanager
def sampled(members: list[Member]) -> Iterator[None]:
    """Sample the memory of `members` within this context."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            for member in members:
                member.group.sample()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def put(
    port: str, number: int, key: bytes, size: int, seconds: float, announced: bool
) -> Coroutine[None, None, Outcome]:
    """Return the coroutine of one put at `port`."""
    if port == REDIS:
        return put_resp(HOST, number, key, size, seconds)
    path = PUT.router_path if port == ROUTER else PUT.node_path
    return put_grpc(HOST, number, path, key, size, seconds, announced=announced)


def case(stack: str, port: str, count: int, size: int, huge: int, seconds: float) -> bool:
    """Run all bursts at one port and print a line for each; return True if all passed."""
    router_limit, node_limit = (limit * MIB for limit in LIMITS[stack])
    with tempfile.TemporaryDirectory() as name, ExitStack() as exits:
        directory = Path(name)
        names = ("router", "router ops", "node", "redis", "node ops")
        ports = {each: exits.enter_context(ReservedPort()).number for each in names}
        s3 = exits.enter_context(StubProcess(directory, keep=64 * 1024))
        router = Member(
            "milena_router",
            router_limit,
            {
                "LISTEN_ADDR": f"{HOST}:{ports['router']}",
                "METRICS_PORT": str(ports["router ops"]),
                "RATE_LIMIT": "0",
                "RING_RECOVERY_SECONDS": "0.1",
            },
            directory / "router",
        )
        exits.callback(router.close)
        node = Member(
            "milena_cache",
            node_limit,
            {
                **AWS_VARIABLES,
                "ROUTER_ADDR": f"{HOST}:{ports['router']}",
                "LISTEN_ADDR": f"{HOST}:{ports['node']}",
                "RESP_ADDR": f"{HOST}:{ports['redis']}",
                "METRICS_PORT": str(ports["node ops"]),
                "S3_BUCKET": BUCKET,
                "S3_ENDPOINT_URL": s3.endpoint_url,
            },
            directory / "node",
        )
        exits.callback(node.close)
        members = [router, node]
        wait_until("the node is in the ring", lambda: b"can be used" in node.log.read_bytes(), 60)
        number = ports[{ROUTER: "router", NODE: "node", REDIS: "redis"}[port]]
        bursts = [("announced", count, size, True)] if port != REDIS else []
        bursts += [("unannounced", count, size, False), ("huge", 1, huge, False)]
        fine = True
        for what, many, each, announced in bursts:
            started = time.monotonic()

            async def burst(many: int = many, each: int = each, announced: bool = announced) -> list[Outcome]:
                calls = (put(port, number, b"k%d" % index, each, seconds, announced) for index in range(many))
                return await asyncio.gather(*calls)

            with sampled(members):
                outcomes = asyncio.run(burst())
            took = time.monotonic() - started
            alive = [member.process.poll() is None and not member.group.kills for member in members]
            small = "-"
            if all(alive):
                try:
                    with Milena(f"{HOST}:{ports['router']}", timeout=60) as client:
                        client["small"] = b"x"
                    small = "ok"
                except Exception as error:
                    small = str(error)
            named = all(each.response != "refused" or each.named for each in outcomes)
            held = all(alive) and small == "ok" and named
            fine = fine and held
            responses = Counter(f"{each.response} {each.named}".strip() for each in outcomes)
            peaks = " ".join(
                f"{label} {member.group.anonymous_peak / MIB:.0f} of {limit / MIB:.0f} MiB"
                for label, member, limit in (("router", router, router_limit), ("node", node, node_limit))
            )
            print(
                f"{stack:10} {port:11} {what:11} {many} x {each / MIB:.0f} MiB in {took:.0f} s: {dict(responses)}; "
                f"sent {sum(each.sent for each in outcomes) / MIB:.0f} MiB; {peaks}; then a small put: {small}"
                f"{'' if held else '   FAILED'}",
                flush=True,
            )
            for text in {each.text for each in outcomes if each.response == "refused" and not each.named}:
                print(f"  names no limit: {text}")
            if not all(alive):
                for member in members:
                    print(member.log.read_text()[-2000:], member.process.poll(), member.group.kills)
                break
        return fine


def main() -> int:
    """Run all cases and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", choices=LIMITS, action="append")
    parser.add_argument("--port", choices=(ROUTER, NODE, REDIS), action="append")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--huge-mib", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    results = [
        case(stack, port, chosen.count, chosen.mib * MIB, chosen.huge_mib * MIB, chosen.seconds)
        for stack in chosen.stack or LIMITS
        for port in chosen.port or (ROUTER, NODE, REDIS)
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
