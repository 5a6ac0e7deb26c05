"""Shell. Programs and libraries in an environment of their own, and what S3 has after they have run."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client

from tests.e2e.s3_clients.conftest import Endpoints
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

# Made by .ci/run, from requirements.txt beside this file.
ENVIRONMENT = ROOT / "build" / "s3-clients"
SESSIONS = Path(__file__).parent / "sessions"
MIB = 2**20


def value_of(name: str, size: int) -> bytes:
    """Bytes that no other name has."""
    return random.Random(name).randbytes(size)


class Programs:
    """Runs programs of the other environment at one endpoint, in `directory`."""

    def __init__(self, endpoints: Endpoints, s3: S3Client, directory: Path, url: str) -> None:
        if not (ENVIRONMENT / "bin" / "python").exists():
            pytest.skip(f"{ENVIRONMENT} is not there: see tests/e2e/s3_clients/requirements.txt")
        self.bucket = endpoints.bucket
        self.url = url
        self.directory = directory
        self._s3 = s3
        self._environment = {
            **endpoints.variables(),
            "AWS_ENDPOINT_URL": url,
            "S3_ENDPOINT_URL": url,  # of s5cmd
            "HOME": str(directory),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
        }

    def run(self, program: str, *arguments: str, code: int = 0) -> bytes:
        """Run a program; return what it prints."""
        done = subprocess.run(
            [str(ENVIRONMENT / "bin" / program), *arguments],
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
        assert done.returncode == code, done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
        return done.stdout

    def session(self, name: str, *arguments: str) -> None:
        """Run a script of `sessions`, which gets the endpoint, the bucket and then `arguments`."""
        self.run("python", str(SESSIONS / f"{name}.py"), self.url, self.bucket, *arguments)

    def stored(self, key: str) -> bytes:
        """Return what S3 has, once it has an object of this key."""

        def found() -> bytes | None:
            try:
                return self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            except ClientError:
                return None

        return wait_until(f"S3 has {key}", found, 30, pause=0.1)

    def expect(self, prefix: str, objects: Mapping[str, bytes]) -> None:
        """Wait until S3 has these objects below `prefix` and no others, byte for byte."""
        expect(self._s3, self.bucket, prefix, objects)


def expect(s3: S3Client, bucket: str, prefix: str, objects: Mapping[str, bytes]) -> None:
    """Wait until S3 has these objects below `prefix` and no others, byte for byte."""

    expected, seen = {f"{prefix}{name}": value for name, value in objects.items()}, ""

    def as_expected() -> bool:
        nonlocal seen
        contents = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        seen = ", ".join(f"{each['Key']} of {each['Size']} B" for each in contents)
        keys = [each["Key"] for each in contents]
        # Not before the keys are those: one that is to be deleted may be gone after it was listed.
        return keys == sorted(expected) and all(
            s3.get_object(Bucket=bucket, Key=key)["Body"].read() == expected[key] for key in keys
        )

    try:
        wait_until(f"S3 has what was written below {prefix}", as_expected, 30, pause=0.1)
    except TimeoutError as error:
        raise AssertionError(f"{error}: it has {seen}") from None
