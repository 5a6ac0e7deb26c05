"""Shell. `python -m tests.e2e.redis.suites.redis_tcl`: units of Redis's test suite, at a Redis server and here.

They are in Tcl (`tclsh`), and come with Debian's source package, which is fetched with apt-get. They run as for a
server that is not theirs, with one database: they skip what needs to start servers, DEBUG, or SELECT. All that
passes at the Redis server must pass at the node, but for the DIFFERENCES.

Their harness is changed in two ways, in the copy. FUNCTION FLUSH and CONFIG SET before the tests of a file, or
before each test of `tracking`, which a node does not have, are made without regard to errors. And a test of `multi`
or `tracking` that fails ends its transaction, since all tests of the file are on one connection.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.peers.redis_server import RedisServer
from bench.peers.stub_process import StubProcess
from tests.e2e.redis.suites.redis_tcl_differences import DIFFERENCES, WAITING
from tests.support.cluster import Cluster

VERSION: Final = "7.0.15"
UNITS: Final = (
    *("unit/type/string", "unit/type/incr", "unit/expire", "unit/scan", "unit/protocol", "unit/multi"),
    *("unit/pubsub", "unit/tracking"),
)
SECONDS: Final = 300.0
# FLUSHALL deletes the 10,000 objects of some tests.
NODE: Final = {"ALLOW_FLUSH": "objects", "REQUEST_TIMEOUT_SECONDS": "60"}
_SOURCES: Final = """\
deb-src http://deb.debian.org/debian bookworm main
deb-src http://deb.debian.org/debian-security bookworm-security main
"""

# The tests of one unit that passed, and those that failed, with the error.
Passed = set[str]
Failed = dict[str, str]


def fetch(directory: Path) -> Path:
    """Return the directory of Redis's source, below `directory`. Raises CalledProcessError."""
    lists = directory / "lists"
    (lists / "partial").mkdir(parents=True)
    (directory / "sources.list").write_text(_SOURCES)
    options = ("Etc::sourcelist", directory / "sources.list"), ("Etc::sourceparts", "-"), ("State::lists", lists)
    apt = ["apt-get", "-qq", *(word for name, value in options for word in ("-o", f"Dir::{name}={value}"))]
    subprocess.run([*apt, "update"], check=True, stdin=subprocess.DEVNULL)
    subprocess.run(
        [*apt, "source", "--download-only", "redis"], cwd=directory, check=True, stdin=subprocess.DEVNULL
    )
    with tarfile.open(directory / f"redis_{VERSION}.orig.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    source = directory / f"redis-{VERSION}"
    harness = source / "tests" / "support" / "server.tcl"
    text = harness.read_text()
    for call in ("r function flush", "r config set $param $val"):
        text = text.replace(f" {call}\n", f" catch {{{call}}}\n")
    harness.write_text(text)
    tests = source / "tests" / "support" / "test.tcl"
    failing = "if {$assertion || $::durable} {\n"
    end = "if {[regexp {multi|tracking} $::curfile]} {catch {r discard}}\n"
    tests.write_text(tests.read_text().replace(failing, f"{failing}{end}", 1))
    tracking = source / "tests" / "unit" / "tracking.tcl"
    call = "r config set tracking-table-max-keys 1000000"
    tracking.write_text(tracking.read_text().replace(f" {call}\n", f" catch {{{call}}}\n"))
    return source


def run(source: Path, address: str, unit: str, log: Path, skipped: Sequence[str] = ()) -> tuple[Passed, Failed]:
    """Run a unit at a server, and keep its output in `log`. A test that does not end ends the unit."""
    host, _, port = address.rpartition(":")
    command = ["tclsh", "tests/test_helper.tcl", "--host", host, "--port", port, "--single", unit, "--singledb"]
    options = ["--ignore-encoding", "--durable", "--tags", "-slow -needs:debug -needs:repl"]
    options += [word for name in skipped for word in ("--skiptest", name)]
    failed: Failed = {}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *options],
            cwd=source,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Its child processes would go on when it ends.
            start_new_session=True,
        )
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            failed[f"{unit} ends"] = f"it did not within {SECONDS:g} s"
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    passed = set(re.findall(r"^\[ok\]: (.+) \(\d+ ms\)$", text, re.MULTILINE))
    for name, error in re.findall(r"^\[err\]: (.+) in tests/\S+\n(.*)$", text, re.MULTILINE):
        failed[name] = error
    failed.update((f"{unit} runs", error) for error in re.findall(r"^\[exception\]: (.+)$", text, re.MULTILINE))
    return passed, failed


def contradictions(redis: Iterable[str], passed: Passed, failed: Mapping[str, str]) -> list[str]:
    """Return what contradicts the table of differences, of the tests that pass at a Redis server."""
    lines = []
    for test in sorted(redis):
        listed = any(test in tests for tests in DIFFERENCES.values())
        if test in passed and listed:
            lines.append(f"passes, and is listed as a difference: {test}")
        elif test not in passed and not listed:
            lines.append(f"fails: {test}: {failed.get(test, 'it did not run')}")
    return [*lines, *(f"{name}: {error}" for name, error in failed.items() if name.startswith("unit/"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, help="a directory that has Redis's source, in place of fetching it")
    parser.add_argument("--keep", type=Path, help="a directory for the output of the units")
    parser.add_argument("units", nargs="*", default=UNITS)
    options = parser.parse_args()
    found: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        kept = options.keep or directory
        kept.mkdir(exist_ok=True)
        source = options.source or fetch(directory)
        with (
            RedisServer(directory, durable=False) as redis,
            StubProcess(directory, md5_etags=True) as stub,
            Cluster(directory, stub.endpoint_url, "suite", 1, node_env=NODE) as cluster,
        ):
            cluster.wait_for_ring(1)
            for unit in options.units:
                log = f"{unit.replace('/', '_')}.log"
                expected, _ = run(source, redis.address, unit, kept / f"redis_{log}")
                passed, failed = run(source, cluster.nodes[0].resp, unit, kept / f"milena_{log}", WAITING)
                print(
                    f"{unit}: {len(expected)} tests pass at Redis {VERSION}, {len(expected & passed)} of them here"
                )
                found += contradictions(expected, passed, failed)
                if not expected:
                    found.append(f"{unit}: nothing passes at the Redis server")
            found += cluster.tracebacks()
    print("\n".join(found))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
