"""A process without a file descriptor left says so, and does not blame S3."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from milena_cache.objects.object_store import Ref
from milena_cache.origin.bucket_check import BucketCheck
from milena_cache.origin.s3.responses import out_of_files
from milena_cache.servers.resp.assembly import RESERVED_FILES, allowed_connections
from milena_common.api.errors import OriginUnavailable
from tests.support.fake_clock import FakeClock, run_ready_tasks
from tests.support.s3.memory_store import MemoryStore

ROOT = Path(__file__).parents[3]
SAID = "too many open files: this process has all that it may have open (ulimit -n, LimitNOFILE) (local)"

PROGRAM = """
import asyncio, os, resource, sys
from milena_cache.configuration.config import load
from milena_cache.origin.clients.boto3_client import Boto3Store
from milena_cache.origin.clients.boto3_session import make_session
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.clients.obstore_client import ObstoreStore
from milena_cache.objects.object_store import OriginFailure, Ref
from milena_common.process.env import Environment

async def main():
    settings = load(Environment({
        "ROUTER_ADDR": "127.0.0.1:1", "AWS_REGION": "eu-central-1", "S3_BUCKET": "bucket",
        "S3_ENDPOINT_URL": f"http://{sys.argv[1]}:1",
    }), 2**30).s3
    credentials = Credentials(settings, lambda: make_session(settings))
    for store in (ObstoreStore(credentials, settings), Boto3Store(credentials, settings)):
        held = []
        for _ in range(2):
            try:
                await store.head(Ref("bucket", "k"))
            except OriginFailure as failure:
                print(failure.fault.label, failure)
            try:
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
        for each in held:
            os.close(each)

resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
asyncio.run(main())
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_both_clients_name_the_limit(host: str) -> None:
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "PATH": ""}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, host],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=60,
    )
    lines = ran.stdout.splitlines()
    assert len(lines) == 4, ran.stdout + ran.stderr
    assert SAID not in lines[0] + lines[2], "while there are some, it is what it is"
    for line in (lines[1], lines[3]):
        assert line == f"connect S3 head of s3://bucket/k: {SAID}"


def test_its_callers_may_try_again() -> None:
    failure = out_of_files("put", Ref("bucket", "k"))
    assert (failure.fault.retryable, failure.ambiguous) == (True, False), "nothing was sent"
    assert isinstance(failure.as_error(), OriginUnavailable)
    assert SAID in str(failure.as_error())


class Refusing(MemoryStore):
    """A store to which no connection can be opened."""

    async def check_bucket(self, bucket: str) -> None:
        raise out_of_files("bucket", Ref(bucket, ""))


async def test_a_node_that_starts_so_is_not_advised_to_check_the_network() -> None:
    watch = BucketCheck(Refusing("bucket"), "bucket", FakeClock(), lambda: 1.0)
    task = asyncio.create_task(watch.run())
    await run_ready_tasks()
    assert watch.problem == f"bucket bucket cannot be used: S3 bucket of s3://bucket/: {SAID}; raise the limit"
    task.cancel()


@pytest.mark.parametrize(
    ("expected", "open_files", "allowed"),
    [
        (10_000, 65_536, 10_000),
        (10_000, 1024, 1024 - RESERVED_FILES - 128),
        (100, 1024, 100),
        (10_000, 256, 128),
        (10_000, 1, 1),
    ],
)
def test_clients_of_the_resp_server_leave_descriptors_for_the_rest(
    expected: int, open_files: int, allowed: int
) -> None:
    assert allowed_connections(expected, open_files, 64) == allowed
