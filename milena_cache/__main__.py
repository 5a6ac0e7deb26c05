"""Wires the cache node: environment → configuration → parts → run."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import uuid
from collections.abc import Sequence

from milena_cache.bucket_watch import BucketWatch
from milena_cache.config import Config, load
from milena_cache.doors.grpc import OPERATIONS, SERVICE, CacheService
from milena_cache.memory import Memory
from milena_cache.metrics import node_registry
from milena_cache.node import Node
from milena_cache.origin import Origin
from milena_cache.registration import Identity, Registration
from milena_cache.report import Report
from milena_cache.s3 import S3
from milena_cache.s3_boto3 import Boto3Store, make_session
from milena_cache.s3_obstore import ObstoreStore
from milena_client.connection import AsyncGrpcTransport
from milena_common import process
from milena_common.addresses import Address, parse_address
from milena_common.calls import CallCounts
from milena_common.clock import SystemClock
from milena_common.grpc_door import GrpcDoor
from milena_common.memory_limit import memory_limit
from milena_common.ops_http import OpsServer

log = logging.getLogger("milena_cache")

# The parts of a stop add up to less than 10 s.
LEAVE_SECONDS = 1.0
# Requests that the router sent before it took the leave may still be on their way.
LINGER_SECONDS = 0.3
STOP_GRACE_SECONDS = 6.0
FINISH_SECONDS = 2.0


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Run a cache node until `stop` is set. Raises CannotListen or ConfigError."""
    clock = SystemClock()
    draw = random.random
    session = make_session(config.s3.region)
    store = S3(ObstoreStore(session, config.s3), Boto3Store(session, config.s3))
    origin = Origin(
        store,
        clock,
        draw,
        retries=config.s3_retries,
        concurrency=config.s3_concurrency,
        place_timeout=config.request_timeout,
    )
    node = Node(
        store=origin,
        writer=origin,
        memory=Memory(config.max_entries, config.max_bytes),
        freshness=config.freshness,
        buckets=config.buckets,
        clock=clock,
        max_value_bytes=config.max_value_bytes,
        revalidate_timeout=config.revalidate_timeout,
    )
    calls = CallCounts(OPERATIONS)
    watch = BucketWatch(origin, config.buckets.default, clock, draw)
    door = GrpcDoor(SERVICE, config.max_value_bytes, memory_limit() // 4)
    address = door.bind(config.listen, "LISTEN_ADDR")
    advertised = str(config.advertise or _derive_advertised(address, config.routers))
    report = Report(node, origin.counts, calls, watch, stop.is_set, clock)
    service = CacheService(node, config.buckets, advertised, config.request_timeout, report)
    ops = OpsServer(node_registry(calls, node, origin.counts, service, report), report.not_ready)
    metrics = await ops.start(config.metrics, "METRICS_PORT")
    identity = Identity(
        address=advertised,
        node_id=uuid.uuid4().hex,
        weight=config.weight,
        addresses={"ops": str(Address(parse_address(advertised).host, metrics.port))},
        default_bucket=config.buckets.default,
    )
    for router in config.routers:
        connection = AsyncGrpcTransport(str(router))
        report.registrations.append(Registration(str(router), connection, identity, clock, draw))
    await door.start(service.methods(), calls)
    log.info(
        "cache node %s listens on %s, metrics on http://%s/metrics; bucket %s, %d entries, %d MiB",
        advertised,
        address,
        metrics,
        config.buckets.default,
        config.max_entries,
        config.max_bytes // 2**20,
    )
    background = [asyncio.create_task(watch.run())]
    background += [asyncio.create_task(each.run()) for each in report.registrations]
    try:
        await stop.wait()
        await door.set_serving(False)
        for task in background:
            task.cancel()
        await asyncio.gather(*(each.leave(LEAVE_SECONDS) for each in report.registrations))
        await asyncio.sleep(LINGER_SECONDS)
        await door.stop(STOP_GRACE_SECONDS)
        undone = await node.finish(FINISH_SECONDS)
        if undone:
            log.error("%d writes, none of them acknowledged, were given up: S3 did not answer", undone)
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*(each.close() for each in report.registrations))
        await origin.close()
        await ops.stop()
    log.info("cache node stopped")


def _derive_advertised(listen: Address, routers: Sequence[Address]) -> Address:
    """The address that others can call: where it listens, or this machine's address on the way to a router."""
    if not listen.is_wildcard:
        return listen
    for router in routers:
        try:
            # Connecting a datagram socket sends nothing; it only chooses the way.
            with socket.socket(socket.AF_INET6 if ":" in router.host else socket.AF_INET, socket.SOCK_DGRAM) as way:
                way.connect((router.host, router.port))
                return Address(way.getsockname()[0], listen.port)
        except OSError:
            continue
    return Address(socket.gethostname(), listen.port)


def main() -> None:
    """The command `milena-cache`."""
    process.leave(process.run("milena-cache", lambda env: load(env, memory_limit()), serve))


if __name__ == "__main__":
    main()
