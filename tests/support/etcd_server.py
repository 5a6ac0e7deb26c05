"""Shell. Real etcd processes for tests: one member or three, on free ports of 127.0.0.1, that can be killed.

Without `etcd` (Debian: etcd-server, which `.ci/run` installs) tests that need one are skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from milena_common.network.addresses import Address
from tests.support.ports import ReservedPort
from tests.support.waiting import wait_until

ETCD = shutil.which("etcd")
needs_etcd = pytest.mark.skipif(ETCD is None, reason="there is no etcd (Debian: etcd-server)")
READY_SECONDS = 30.0


class EtcdMember:
    """One member. `tls` has the options for encrypted clients, if they are; `peers` those of the cluster."""

    def __init__(self, name: str, folder: Path, port: ReservedPort, peer: ReservedPort, tls: Sequence[str]) -> None:
        self.name = name
        self.address = Address("127.0.0.1", port.number)
        self.peer_url = f"http://{peer.address}"
        self._log = folder / f"{name}.log"
        self._tls = tls
        scheme = "https" if tls else "http"
        self._arguments = [
            ETCD or "etcd",
            f"--name={name}",
            f"--data-dir={folder / name}",
            f"--listen-client-urls={scheme}://{port.address}",
            f"--advertise-client-urls={scheme}://{port.address}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            *tls,
        ]
        self._ports = (port, peer)
        self._cluster = ""
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self, cluster: str = "") -> None:
        self._cluster = cluster or self._cluster
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [*self._arguments, f"--initial-cluster={self._cluster}"],
                env={"PATH": os.environ.get("PATH", os.defpath)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def wait_ready(self) -> None:
        """Wait until the member serves clients, which it does once it knows a leader."""
        marker = b"ready to serve client requests"
        wait_until(f"{self.name} serves", lambda: marker in self._log.read_bytes(), READY_SECONDS)

    def kill(self) -> None:
        """End the process at once."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def stop_running(self) -> None:
        """Suspend the process: it keeps its connections, and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill the process and start another one with its data; return when that serves clients."""
        self.kill()
        before = self._log.read_bytes().count(b"ready to serve client requests")
        self.start()
        wait_until(
            f"{self.name} serves again",
            lambda: self._log.read_bytes().count(b"ready to serve client requests") > before,
            READY_SECONDS,
        )

    def close(self) -> None:
        self.kill()
        for port in self._ports:
            port.close()


class EtcdCluster:
    """Members that have one store."""

    def __init__(self, members: Sequence[EtcdMember]) -> None:
        self.members = members

    @property
    def endpoints(self) -> list[Address]:
        return [member.address for member in self.members]

    def start(self) -> None:
        cluster = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        for member in self.members:
            member.start(cluster)
        for member in self.members:
            member.wait_ready()


@contextmanager
def running_etcd(folder: Path, members: int = 1, tls: Sequence[str] = ()) -> Iterator[EtcdCluster]:
    """Run etcd with its data in `folder`; `tls` are its options for encrypted clients."""
    cluster = EtcdCluster(
        [EtcdMember(f"etcd{number}", folder, ReservedPort(), ReservedPort(), tls) for number in range(members)]
    )
    try:
        cluster.start()
        yield cluster
    finally:
        for member in cluster.members:
            member.close()
