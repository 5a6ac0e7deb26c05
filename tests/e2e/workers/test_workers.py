"""Two workers of one machine (WORKERS=2): values, the loss of one, one text of metrics, a stop, another number."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from milena_client import Milena
from milena_common.cluster.slots import SLOTS
from tests.support.certificates import Authority, client_url, tls_variables, write_files
from tests.support.processes import READY_SECONDS, Server
from tests.support.s3.moto_server import AWS_VARIABLES, MotoServer
from tests.support.waiting import wait_until
from tests.support.workers import Workers

pytestmark = pytest.mark.e2e

WORKERS = 2
KEYS = [f"key {number}" for number in range(40)]


@pytest.fixture
def machine(moto: MotoServer, bucket: str, tmp_path: Path) -> Iterator[tuple[Workers, Server]]:
    with ExitStack() as stack:
        router = stack.enter_context(
            Server("router", "milena_router", {"RATE_LIMIT": "0", "RING_RECOVERY_SECONDS": "0"}, tmp_path)
        )
        variables = {
            **AWS_VARIABLES,
            "ROUTER_ADDR": f"http://{router.address}",
            "S3_ENDPOINT_URL": moto.endpoint_url,
            "S3_BUCKET": bucket,
        }
        machine = stack.enter_context(Workers(variables, tmp_path, WORKERS))
        machine.wait_ready()
        yield machine, router


def test_two_workers_with_tls_on_every_port(moto: MotoServer, bucket: str, tmp_path: Path) -> None:
    authority = Authority()
    files = write_files(tmp_path, authority.pem, authority.issue(), "server")
    client = write_files(tmp_path, authority.pem, authority.issue("client"), "client")
    tls = tls_variables(files)
    with ExitStack() as stack:
        more = {"RATE_LIMIT": "0", "RING_RECOVERY_SECONDS": "0"}
        router = stack.enter_context(Server("router", "milena_router", {**tls, **more}, tmp_path))
        variables = {
            **AWS_VARIABLES,
            **tls,
            # Metrics need no certificate, for the small client of this test; the calls of the cluster need one.
            "TLS_CLIENT_AUTH": "off",
            "CLUSTER_CERT_NAMES": "",
            "ROUTER_ADDR": f"https://{router.address}",
            "S3_ENDPOINT_URL": moto.endpoint_url,
            "S3_BUCKET": bucket,
        }
        node = stack.enter_context(Workers(variables, tmp_path, WORKERS))
        node.wait_ready()

        def served() -> bool:
            with Milena(client_url(router.address, client)) as m:
                for key in KEYS:
                    m.set(key, key.encode())
                assert [m.get(key) for key in KEYS] == [key.encode() for key in KEYS]
            metrics = node.metrics()
            assert metrics.value("milena_worker_up") == WORKERS
            return all(metrics.value("milena_request_counter", worker=str(index)) for index in range(WORKERS))

        wait_until("both serve", served, READY_SECONDS)
        # Another authority, in the files of all at once: the parent reads its workers with it too.
        successor = Authority("successor")
        write_files(tmp_path, successor.pem, successor.issue(), "server")
        write_files(tmp_path, successor.pem, successor.issue("client"), "client")
        wait_until(
            "all have it", lambda: len(node.lines("new certificates are used")) == WORKERS + 1, READY_SECONDS
        )
        router.wait_for_log("new certificates are used", READY_SECONDS)
        node.wait_ready()
        assert served()


def test_two_workers(machine: tuple[Workers, Server]) -> None:
    node, router = machine
    with Milena(f"milena://{router.address}") as client:
        for key in KEYS:
            client.set(key, key.encode())
        assert [client.get(key) for key in KEYS] == [key.encode() for key in KEYS]

        # One text of metrics; each worker has a part of the keys.
        metrics = node.metrics()
        requests = [metrics.value("milena_request_counter", worker=str(index)) for index in range(WORKERS)]
        assert all(requests)
        assert metrics.value("milena_worker_up") == WORKERS
        assert metrics.value("milena_cache_capacity_entries") == 10_000
        assert node.get("/livez")[0] == 200

        if shutil.which("redis-cli"):
            port = str(node.resp)
            said = subprocess.run(
                ["redis-cli", "--cluster", "check", f"127.0.0.1:{port}"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert f"All {SLOTS} slots covered" in said.stdout, said.stdout
            said = subprocess.run(
                ["redis-cli", "-c", "-p", port, "get", KEYS[7]], capture_output=True, text=True, check=True
            )
            assert said.stdout.strip() == KEYS[7]

        # A worker that is killed comes back, with what it acknowledged.
        killed = node.worker_pids()[1]
        for key in KEYS:
            client.set(key, b"new " + key.encode())
        os.kill(killed, signal.SIGKILL)
        node.wait_for_log("worker 1 ended with exit code 137: started again")
        wait_until("it is started again", lambda: node.worker_pids()[1] != killed, READY_SECONDS)
        node.wait_ready()
        assert [client.get(key, timeout=20) for key in KEYS] == [b"new " + key.encode() for key in KEYS]
        assert node.metrics().value("milena_worker_restarts_total", worker="1") == 1

    workers = node.worker_pids()
    node.terminate()
    assert node.wait(60.0) == 0
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not node.lines("Traceback")
