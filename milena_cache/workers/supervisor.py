"""Shell. The parent of several workers: starts them, also again when they end, stops them, and shows their health.

The parent does no work of a node. It listens on METRICS_PORT only: the metrics of all workers, and whether all of
them are ready.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import suppress

from prometheus_client import CollectorRegistry

from milena_cache.configuration.advertised import derive_advertised
from milena_cache.configuration.config import Config
from milena_cache.workers.left_journals import check_left_journals
from milena_cache.workers.merged_metrics import Merged, WorkerState, merge
from milena_cache.workers.plan import metrics_address, worker_variables
from milena_cache.workers.restarts import Restarts, exit_code, worst
from milena_common.access.guarding import guard_process
from milena_common.api.credentials import CurrentCredentials, no_credentials
from milena_common.metrics.http_server import OpsServer
from milena_common.metrics.ops_client import Encryption, fetch
from milena_common.network.addresses import Address, Port
from milena_common.runtime.clock import SystemClock
from milena_common.tls.certificates import Certificates

log = logging.getLogger("milena_cache")

# Seconds within which a worker has to return its metrics or its health.
FETCH_SECONDS = 2.0
# Seconds for the steps of a worker's stop after its drain; then it is killed.
STOP_SECONDS = 20.0


class Worker:
    """One worker and its process. `code` is the exit code of the process before, 0 before there was one."""

    def __init__(
        self,
        index: int,
        variables: Mapping[str, str],
        ops: Address,
        stop_seconds: float,
        credentials: CurrentCredentials = no_credentials,
        encryption: Encryption | None = None,
    ) -> None:
        self._credentials = credentials
        self._encryption = encryption
        self.index = index
        self._ops = ops
        self.restarts = 0
        self.code = 0
        self.running = False
        self._variables = variables
        self._stop_seconds = stop_seconds
        self._restarts = Restarts()

    @property
    def state(self) -> WorkerState:
        return WorkerState(self.running, self.restarts)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the process running until `stop` is set, and then stop it; returns early if no start would help."""
        while not stop.is_set():
            began = time.monotonic()
            returned = await self._run_once(stop)
            self.code = exit_code(returned)
            if stop.is_set():
                return
            delay = self._restarts.delay(self.code, time.monotonic() - began, random.random)
            if delay is None:
                log.error("worker %d ended with exit code %d, and is not started again", self.index, self.code)
                return
            log.error("worker %d ended with exit code %d: started again in %.1f s", self.index, self.code, delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), delay)
                return
            self.restarts += 1

    async def _run_once(self, stop: asyncio.Event) -> int:
        """Start the process, and return what it ended with: a negative number is a signal."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "milena_cache.worker",
            str(os.getpid()),
            env={**os.environ, **self._variables},
            # Descriptor 2 of the parent is a pipe to its own log.
            stderr=sys.stderr,
        )
        self.running = True
        log.info("worker %d has process id %d", self.index, process.pid)
        finished, stopped = asyncio.ensure_future(process.wait()), asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((finished, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not finished.done():
                await self._end(process)
            return await finished
        finally:
            self.running = False
            stopped.cancel()
            if not finished.done():  # this task was cancelled
                finished.cancel()
                _send(process, signal.SIGKILL)

    async def _end(self, process: Process) -> None:
        _send(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._stop_seconds)
        except TimeoutError:
            log.error("worker %d did not stop within %g s: killed", self.index, self._stop_seconds)
            _send(process, signal.SIGKILL)

    async def fetch(self, path: str) -> tuple[int, str] | None:
        """Return status and body of the worker's reply to a GET of `path`; None without one in FETCH_SECONDS."""
        return await fetch(self._ops, path, FETCH_SECONDS, self._credentials(), self._encryption)

    async def problems(self) -> tuple[list[str], list[str]]:
        """Return why the worker is not ready, and why it is degraded."""
        if not self.running:
            return [f"worker {self.index} does not run: its last exit code was {self.code}"], []
        found = await self.fetch("/readyz")
        if found is None:
            return [f"worker {self.index} does not respond"], []
        status, body = found
        try:
            reasons = [f"worker {self.index}: {reason}" for reason in json.loads(body).get("reasons", [])]
        except ValueError:
            reasons = []
        if status != 200 and not reasons:
            reasons = [f"worker {self.index}: HTTP status {status}"]
        return (reasons, []) if status != 200 else ([], reasons)


class Fleet:
    """All workers, and what the parent shows of them."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers
        self.merged = Merged(lambda: [worker.state for worker in workers])
        self.stopping = False
        self._not_ready: list[str] = ["starting"]
        self._degraded: list[str] = []

    def not_ready(self) -> list[str]:
        return ["stopping"] if self.stopping else self._not_ready

    def degraded(self) -> list[str]:
        return self._degraded

    async def look(self) -> None:
        """Ask all workers whether they are ready."""
        found = await asyncio.gather(*(worker.problems() for worker in self.workers))
        self._not_ready = [reason for not_ready, _ in found for reason in not_ready]
        self._degraded = [reason for _, degraded in found for reason in degraded]

    async def scrape(self) -> None:
        """Get the metrics of all workers that respond."""
        found = await asyncio.gather(*(each.fetch("/metrics") for each in self.workers))
        texts = {
            worker.index: reply[1]
            for worker, reply in zip(self.workers, found, strict=True)
            if reply is not None and reply[0] == 200
        }
        self.merged.families = merge(texts)


async def supervise(config: Config, stop: asyncio.Event) -> int:
    """Run `config.workers` workers until `stop` is set, and return the worst of their exit codes.

    Raises ConfigError or CannotListen.
    """
    await asyncio.to_thread(check_left_journals, config)
    machine = socket.gethostname()
    stop_seconds = config.drain + STOP_SECONDS
    clock = SystemClock()
    # The parent's own port; the workers guard theirs.
    guarding = guard_process(config.access, clock, (Port(config.metrics, "METRICS_PORT"),))
    access = guarding.access
    tls = config.tls
    certificates = Certificates(tls.files) if tls.mode != "off" and tls.files is not None else None
    encryption = None
    if certificates is not None:
        # Workers have the certificate of this process; routers and nodes verify it for this host too.
        host = (config.advertise or derive_advertised(config.listen, config.routers)).host
        encryption = Encryption(certificates, host)
    fleet = Fleet(
        [
            Worker(
                each,
                worker_variables(config, each, machine),
                metrics_address(config, each),
                stop_seconds,
                access.credentials,
                encryption,
            )
            for each in range(config.workers)
        ]
    )
    registry = CollectorRegistry()
    registry.register(fleet.merged)
    ops = OpsServer(
        registry,
        fleet.not_ready,
        fleet.degraded,
        access,
        security=certificates,
        plain_too=tls.mode == "both",
        certificate_required=tls.demands_certificates,
        before_metrics=fleet.scrape,
        before_ready=fleet.look,
    )
    metrics = await ops.start(config.metrics, "METRICS_PORT")
    scheme = "https" if tls.mode == "on" else "http"
    log.info("%d workers, their metrics on %s://%s/metrics", config.workers, scheme, metrics)
    running = asyncio.gather(*(worker.run(stop) for worker in fleet.workers))
    stopping = asyncio.create_task(_mark(fleet, stop))
    background = [asyncio.create_task(guarding.files.watch(access, clock))]
    if certificates is not None:
        background.append(asyncio.create_task(certificates.run(clock, tls.reload_seconds)))
    try:
        await running
    finally:
        for task in (stopping, *background):
            task.cancel()
        await ops.stop()
        guarding.audit.close()
    code = worst(worker.code for worker in fleet.workers)
    log.info("all workers have ended; exit code %d", code)
    return code


async def _mark(fleet: Fleet, stop: asyncio.Event) -> None:
    await stop.wait()
    fleet.stopping = True


def _send(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)
