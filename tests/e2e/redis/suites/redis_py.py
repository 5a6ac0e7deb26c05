"""Shell. `python -m tests.e2e.redis.suites.redis_py`: redis-py's own tests, at a Redis server and at a node.

Its source is fetched from PyPI, in a fixed version. Of its tests those run that concern values of bytes, keys,
expiry, scans, connections, transactions, scripts, publish/subscribe, keyspace notifications and the client's cache
(FILES, and what `redis_py_plugin` leaves out of them). All that pass at the Redis server must pass at the node,
which is the only one of its ring, but for the DIFFERENCES.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.peers.redis_server import RedisServer
from tests.e2e.redis.suites.redis_py_differences import reason_of, unlisted
from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer

VERSION: Final = "8.1.0"
SHA256: Final = "6e1a19beef9225c83efd689c7e6b7da2d5215b1f42cd13b7fc3714d0a09c7b25"
# The version of Redis whose tests are run.
REDIS_VERSION: Final = "7.0.15"

_TWICE: Final = (
    *("commands", "pipeline", "scripting", "lock", "encoding", "keyspace_notifications", "pubsub"),
    *("client", "connection", "connection_pool"),
)
FILES: Final = (
    *(f"tests/test_{name}.py" for name in (*_TWICE, "cache", "multiprocessing")),
    *(f"tests/test_asyncio/test_{name}.py" for name in _TWICE),
)
SECONDS: Final = 3000.0

# The error of each test, None if it passed.
Outcomes = dict[str, str | None]


def fetch(directory: Path) -> Path:
    """Return the directory of redis-py's source, below `directory`. Raises CalledProcessError."""
    requirement = directory / "requirement.txt"
    requirement.write_text(f"redis=={VERSION} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-binary", "redis", "--require-hashes", "--dest", str(directory)]
    subprocess.run([*pip, *options, "--requirement", str(requirement)], check=True, stdin=subprocess.DEVNULL)
    with tarfile.open(directory / f"redis-{VERSION}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return directory / f"redis-{VERSION}"


def run(source: Path, address: str, tests: Sequence[str], outcomes: Path) -> Outcomes:
    """Run some of its tests at a server: return their outcomes, which the file `outcomes` keeps. Raises OSError."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MILENA_SUITE_VERSION": REDIS_VERSION,
        "MILENA_SUITE_OUTCOMES": str(outcomes),
    }
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "redis_py_plugin",
        "--tb=native",
    ]
    server = ["--redis-url", f"redis://{address}/0", "--redis-cluster-nodes", "1", "-W", "ignore"]
    chosen = ["-m", "not onlycluster and not redismod", *tests]
    with outcomes.with_suffix(".log").open("w") as log:
        subprocess.run(
            [*pytest, *server, *chosen],
            cwd=source,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
    return dict(json.loads(line) for line in outcomes.read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="a directory for the outcomes and logs")
    parser.add_argument("tests", nargs="*", default=FILES, help="files of its tests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        kept = options.keep or directory
        kept.mkdir(exist_ok=True)
        source = fetch(directory)
        with RedisServer(directory, durable=False) as redis:
            expected = run(source, redis.address, options.tests, kept / "redis.jsonl")
        (directory / "moto").mkdir()
        with (
            MotoServer(directory / "moto") as moto,
            Cluster(
                directory, moto.endpoint_url, moto.new_bucket(), 1, node_env={"ALLOW_FLUSH": "objects"}
            ) as cluster,
        ):
            cluster.wait_for_ring(1)
            found = run(source, cluster.nodes[0].resp, options.tests, kept / "milena.jsonl")
            tracebacks = cluster.tracebacks()
    passed = [test for test, error in expected.items() if error is None]
    here = sum(found.get(test, "absent") is None for test in passed)
    listed = sum(reason_of(test) is not None for test in passed)
    contradictions = [*unlisted(expected, found), *tracebacks]
    print("\n".join(contradictions))
    print(f"{len(passed)} tests pass at Redis {REDIS_VERSION}; {here} of them at a node; {listed} are differences")
    sys.exit(bool(contradictions) or not passed)


if __name__ == "__main__":
    main()
