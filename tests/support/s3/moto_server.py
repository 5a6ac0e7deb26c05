"""Shell. A real S3 over HTTP on this machine: moto's server as a child process."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from tests.support.ports import ReservedPort
from tests.support.processes import READY_SECONDS, Process, ProcessExited
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
# For the environment of processes that talk to a stand-in for S3. The last one keeps the SDK from asking the
# cloud's metadata service, which does not exist here.
AWS_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}


def s3_client(endpoint_url: str, connections: int = 10) -> S3Client:
    """A boto3 client for a stand-in at `endpoint_url` that tries once, waits 10 s at most and heeds no proxy."""
    session = boto3.session.Session(
        aws_access_key_id=AWS_VARIABLES["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=AWS_VARIABLES["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=2,
        read_timeout=10,
        max_pool_connections=connections,
        proxies={},
        s3={"addressing_style": "path"},
    )
    return session.client("s3", endpoint_url=endpoint_url, config=config)


class MotoServer:
    """moto's S3 at `endpoint_url`, empty at first, and a boto3 `client` straight to it."""

    def __init__(self, directory: Path) -> None:
        self._port = ReservedPort()
        self._names = itertools.count(1)
        self.endpoint_url = f"http://{self._port.address}"
        arguments = ("-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port.number))
        self.process = Process("moto", arguments, AWS_VARIABLES, directory)
        try:
            wait_until("moto listens", self._listens, READY_SECONDS)
        except BaseException:
            self.close()
            raise
        self.client = s3_client(self.endpoint_url)

    def client_of(self, service: str) -> Any:
        """Return boto3's client of another service, as "sqs"."""
        client: Any = boto3.client
        return client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=AWS_VARIABLES["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=AWS_VARIABLES["AWS_SECRET_ACCESS_KEY"],
        )

    def _listens(self) -> bool:
        if not self.process.running:
            raise ProcessExited(f"moto ended with code {self.process.wait()}\n{self.process.log_tail()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port.number)) == 0

    def new_bucket(self) -> str:
        """Make a bucket that was not used before, and return its name."""
        name = f"bucket-{next(self._names)}"
        self.client.create_bucket(Bucket=name)
        return name

    def close(self) -> None:
        self.process.close()
        self._port.close()

    def __enter__(self) -> MotoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
