"""`milena s3 check` shows what the store of a node's environment can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from milena_cache.origin.conditions import Capability
from tests.e2e.conftest import bucket, moto
from tests.support.s3.moto_server import AWS_VARIABLES, MotoServer

__all__ = ["bucket", "moto"]

ROOT = Path(__file__).parents[4]


def check(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    start = "from milena_client.cli.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, "-c", start, "s3", "check", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **AWS_VARIABLES, **variables},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_every_capability_is_shown_as_text_and_as_json(tmp_path: Path, moto: MotoServer, bucket: str) -> None:
    store = {"S3_BUCKET": bucket, "S3_ENDPOINT_URL": moto.endpoint_url}
    ran = check(tmp_path, "--json", **store)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {name: each["state"] for name, each in json.loads(ran.stdout).items()} == {
        each.value: "works" for each in Capability
    }
    ran = check(tmp_path, **store)
    assert ran.returncode == 0
    lines = [line.replace(":", " ").split()[:2] for line in ran.stdout.splitlines()]
    assert lines == [[each.value, "works"] for each in Capability]
    assert "Contents" not in moto.client.list_objects_v2(Bucket=bucket)


def test_a_bucket_that_is_not_there_and_a_variable_that_is_missing_are_named(
    tmp_path: Path, moto: MotoServer
) -> None:
    ran = check(tmp_path, S3_BUCKET="no-such-bucket-here", S3_ENDPOINT_URL=moto.endpoint_url)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "no-such-bucket-here" in ran.stderr
    ran = check(tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "S3_BUCKET" in ran.stderr
