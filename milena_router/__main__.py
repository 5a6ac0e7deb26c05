"""Wires the router: environment → configuration → parts → run.

This is the only place that creates the router's parts. A stop ends new calls first, then those in flight, within a
bounded time.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Mapping
from functools import partial

from milena_common.access.api_guard import ApiGuard
from milena_common.access.guarding import guard_process
from milena_common.api.methods import ROUTER_OPERATIONS, ROUTER_SERVICE
from milena_common.cluster.member import RESP, RESP_TLS, Member
from milena_common.cluster.missing_node import MAX_REASONS
from milena_common.forwarding.upstreams import Upstreams
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.memory_limit import memory_limit
from milena_common.limits.open_files import open_files_limit
from milena_common.limits.token_bucket import TokenBucket
from milena_common.metrics.call_counts import CallCounts
from milena_common.metrics.http_server import OpsServer
from milena_common.network.addresses import Address
from milena_common.network.connecting import rejects_connections, resolve_host
from milena_common.process import run as process
from milena_common.rpc.server import GrpcServer
from milena_common.runtime.clock import SystemClock
from milena_common.tls.certificates import Certificates
from milena_common.tls.outgoing import Outgoing
from milena_router.config import Config, load
from milena_router.etcd.client import EtcdClient
from milena_router.forwarding.forward import Forwarder
from milena_router.forwarding.join_addresses import JoinAddresses
from milena_router.forwarding.node_connection import connect
from milena_router.http_jobs import HttpJobs
from milena_router.metrics import router_registry
from milena_router.redis.server import RedisServer
from milena_router.redis.topology import RouterTopology
from milena_router.ring.abandoning import AbandonedMoves
from milena_router.ring.fast_death import FastDeath, members_confirm, ports_reject
from milena_router.ring.leases import Leases
from milena_router.ring.membership import Change, Membership
from milena_router.ring.recovery import Recovery
from milena_router.ring.watch_streams import MAX_WATCHERS, RingWatchers
from milena_router.s3.nodes import RingNodes
from milena_router.service import MAX_LEASES, RouterService
from milena_router.shared.etcd_store import EtcdRingStore
from milena_router.shared.ring_store import RingStore
from milena_router.shared.shared_leases import SharedLeases

log = logging.getLogger("milena_router")

# A stopping router first reports that it is not ready, and accepts calls for so many seconds, so that load
# balancers stop sending to it in time.
LAME_DUCK_SECONDS = 0.5
STOP_GRACE_SECONDS = 8.0
# File descriptors that connections to the Redis port leave free: for gRPC, nodes, metrics and health.
RESERVED_FILES = 1024


def allowed_connections(requested: int, open_files: int) -> int:
    """Return how many connections to the Redis port, at most `requested`, leave enough of `open_files`."""
    return max(1, min(requested, open_files - min(RESERVED_FILES, open_files // 2)))


def own_port(listens: Mapping[str, Address], host: str) -> Member | None:
    """Return this router as its clients see it by its Redis ports; None if they cannot call it.

    `listens`: where it listens; `host`: where clients reach it, "" for the same.
    """
    addresses = {
        name: str(Address(host or address.host, address.port))
        for name, address in listens.items()
        if host or not address.is_wildcard
    }
    return Member(next(iter(addresses.values())), addresses=addresses) if addresses else None


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Run a router until `stop` is set. Raises CannotListen or ConfigError."""
    clock = SystemClock()
    tls = config.tls
    certificates = None if tls.files is None else Certificates(tls.files)
    budget = ByteBudget(config.max_in_flight_bytes)
    guarding = guard_process(config.access, clock, config.ports)
    access = guarding.access

    def new_recovery() -> Recovery:
        return Recovery(config.lease_seconds, config.ring_recovery)

    membership = Membership(
        config.lease_seconds, clock.now(), new_recovery(), uuid.uuid4().hex, config.recovery_wait
    )
    addresses = JoinAddresses(resolve_host, config.node_networks, clock)
    outgoing = Outgoing(tls.mode, certificates)
    open_node = partial(connect, outgoing=outgoing, credentials=access.credentials, allowed=addresses)
    forwarder = Forwarder(membership, open_node, clock)
    watchers = RingWatchers(membership, config.direct_access, config.max_value_bytes)

    def ring_changed(change: Change) -> None:
        forwarder.member_changed(change)
        if redis is not None:
            redis.member_changed(change)
        watchers.wake_watchers()

    redis: RedisServer | None = None
    store: RingStore | None = None
    if config.etcd is None:
        leases = Leases(membership, clock, ring_changed, watchers.wake_watchers)
    else:
        client = EtcdClient(config.etcd.endpoints, config.etcd.security, clock)
        store = EtcdRingStore(client, config.etcd.prefix)
        leases = SharedLeases(
            membership,
            clock,
            store,
            ring_changed,
            watchers.wake_watchers,
            new_recovery,
            lambda: uuid.uuid4().bytes,
            random.random,
        )
    limiter = TokenBucket(config.rate_limit, clock.now())
    fast_death = FastDeath(
        leases,
        [ports_reject(addresses.rejects(rejects_connections), clock), members_confirm(leases, forwarder.request)],
    )
    service = RouterService(
        config, leases, forwarder, limiter, clock, budget, fast_death if config.fast_death else None, addresses
    )
    if config.resp is not None or config.resp_tls is not None:
        redis = RedisServer(
            leases=leases,
            upstreams=Upstreams(
                RouterTopology(leases, forwarder, outgoing, addresses, clock),
                "milena-router",
                access.credentials,
                budget,
                clock,
                config.request_timeout,
            ),
            methods=service.methods(),
            access=access,
            limiter=limiter,
            budget=budget,
            clock=clock,
            timeout=config.request_timeout,
            max_value_bytes=config.max_value_bytes,
            max_connections=allowed_connections(config.resp_max_connections, open_files_limit()),
        )
    s3_endpoint = None
    s3_counts = None
    if config.s3_endpoint is not None:
        # Imported where it is served: its parser is a library of its own.
        from milena_router.s3.assembly import S3Endpoint

        s3_endpoint = S3Endpoint(
            config.s3_endpoint,
            RingNodes(leases, forwarder, outgoing, addresses),
            limiter,
            clock,
            config.request_timeout,
            certificates if tls.mode != "off" else None,
            plain_too=tls.mode != "on",
        )
        s3_counts = s3_endpoint.counts
    calls = CallCounts(ROUTER_OPERATIONS)
    guard = ApiGuard(access, lambda: membership.default_bucket, clock.now)
    server = GrpcServer(
        ROUTER_SERVICE,
        config.max_value_bytes,
        budget,
        config.request_timeout,
        MAX_WATCHERS,
        MAX_LEASES,
        guard=guard,
        verifies_clients=tls.demands_certificates,
    )

    def not_ready() -> list[str]:
        return ["stopping"] if stop.is_set() else []

    def degraded() -> list[str]:
        # Not "not ready": a load balancer that uses ready routers only would keep the awaited nodes away.
        return leases.degraded()[:MAX_REASONS] + [
            node.described(clock.wall()) for node in membership.missing.all()[:MAX_REASONS]
        ]

    def stop_without_leases(task: asyncio.Task[None]) -> None:
        # A router that expires no lease, and seems well, is worse than none.
        if not task.cancelled() and task.exception() is not None:
            log.critical("the router stops, because its leases cannot be kept any more", exc_info=task.exception())
            stop.set()

    ops = OpsServer(
        router_registry(calls, leases, limiter, watchers, budget, certificates, guarding, redis, s3_counts),
        not_ready,
        degraded,
        access,
        security=certificates if tls.mode != "off" else None,
        plain_too=tls.mode == "both",
        certificate_required=tls.demands_certificates,
        jobs=HttpJobs(service.methods(), guard, calls, clock),
    )
    address = server.bind(config.listen, "LISTEN_ADDR", certificates if tls.mode == "on" else None)
    if tls.listen is not None:
        server.bind(tls.listen, "TLS_LISTEN_ADDR", certificates)
    metrics = await ops.start(config.metrics, "METRICS_PORT")
    redis_listens: dict[str, Address] = {}
    if redis is not None and config.resp is not None:
        redis_listens[RESP] = await redis.start(config.resp)
    if redis is not None and config.resp_tls is not None and certificates is not None:
        redis_listens[RESP_TLS] = redis.start_tls(config.resp_tls, certificates)
    s3_listens = "" if s3_endpoint is None else str(s3_endpoint.start())
    watchers.own_port = own_port(redis_listens, config.resp_advertise_host)
    await server.start(
        service.methods(),
        calls,
        watchers.streams(),
        service.exchanges(),
        service.exchange_closed,
        service.pieces(),
    )
    expiry = asyncio.create_task(leases.run())
    expiry.add_done_callback(stop_without_leases)
    background = [asyncio.create_task(AbandonedMoves(leases, forwarder.request, clock).run())]
    background.append(asyncio.create_task(guarding.files.watch(access, clock)))
    if certificates is not None:
        background.append(asyncio.create_task(certificates.run(clock, tls.reload_seconds)))
    where = f"in etcd at {', '.join(map(str, config.etcd.endpoints))}" if config.etcd else "here"
    limit = f"{config.rate_limit:g} requests a second" if config.rate_limit else "off"
    log.info(
        "router listens on %s, %s%smetrics on %s://%s/metrics, rate limit: %s, ring kept %s",
        address,
        f"Redis protocol on {' and '.join(map(str, redis_listens.values()))}, " if redis_listens else "",
        f"S3 endpoint on {s3_listens}, " if s3_listens else "",
        "https" if tls.mode == "on" else "http",
        metrics,
        limit,
        where,
    )
    try:
        await stop.wait()
        await server.set_serving(False)
        await asyncio.sleep(LAME_DUCK_SECONDS)
        watchers.end_streams()
        stopping = [server.stop(STOP_GRACE_SECONDS)]
        if redis is not None:
            stopping.append(redis.stop_serving(STOP_GRACE_SECONDS))
        if s3_endpoint is not None:
            stopping.append(s3_endpoint.server.shut_down(STOP_GRACE_SECONDS))
        await asyncio.gather(*stopping)
    finally:
        expiry.cancel()
        for task in background:
            task.cancel()
        await fast_death.close()
        if redis is not None:
            await redis.upstreams.close()
        if s3_endpoint is not None:
            s3_endpoint.client.close()
        await forwarder.close()
        await ops.stop()
        if store is not None:
            await store.close()
        guarding.audit.close()
    log.info("router stopped")


def main() -> None:
    """Run the router until it is stopped, and end the process."""
    process.leave(process.run("milena-router", lambda env: load(env, memory_limit()), serve))


if __name__ == "__main__":
    main()
