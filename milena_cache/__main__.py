"""Runs a cache node: environment → configuration → parts, which `app` makes → run until the process is stopped."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path

from milena_cache.app import (
    Membership,
    NodeParts,
    Servers,
    build,
    build_membership,
    build_servers,
    grpc_server,
    metrics_registry,
    node_identity,
)
from milena_cache.configuration.advertised import advertised_resp, derive_advertised
from milena_cache.configuration.config import Config, load
from milena_cache.disk_cache.files import DirectoryFiles
from milena_cache.exit_code import exit_code
from milena_cache.handover.handover import Handover
from milena_cache.journal import origin as journal_origin
from milena_cache.journal.disk import CannotOpen
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.identity import JournalIdentity, record_node
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.trial import trial
from milena_cache.membership.coordinator import NodeDescription
from milena_cache.objects.lineage import LINEAGE_DIGITS
from milena_cache.origin.clients.boto3_queue import Boto3Queue
from milena_cache.origin.clients.boto3_session import make_session
from milena_cache.origin.clock_watch import watch_clock
from milena_cache.origin.s3.clock import CorrectedClock, S3Clock
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3_store import S3
from milena_cache.origin.store_probe import StoreProbe
from milena_cache.workers.left_journals import check_left_journals
from milena_cache.workers.supervisor import supervise
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.flush import FlushWaiters
from milena_cache.writes.writer import Writes
from milena_common.access.guarding import guard_process
from milena_common.api.errors import ConfigError
from milena_common.cluster.member import GRPC_TLS, RESP, RESP_TLS, S3_HTTP, S3_HTTPS
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.cores import usable_cores
from milena_common.limits.memory_limit import memory_limit
from milena_common.metrics.http_server import OpsServer
from milena_common.network.addresses import Address, parse_address
from milena_common.process import run as process
from milena_common.rpc.channel import AsyncGrpcTransport
from milena_common.runtime.clock import Clock, SystemClock
from milena_common.tls.certificates import Certificates

log = logging.getLogger("milena_cache")

# Seconds for leaving the ring. After the drain, the steps of a stop add up to less than 10 s.
LEAVE_SECONDS = 1.0
# Seconds to keep serving after leaving: requests that the router sent before may still be in flight.
LINGER_SECONDS = 0.3
STOP_GRACE_SECONDS = 6.0
FINISH_SECONDS = 2.0
# Seconds between two looks whether all slots are handed over.
HANDOVER_PAUSE_SECONDS = 0.02
# How long the owners may take to get the writes of a node that has left; meanwhile its servers stop.
HAND_IN_SECONDS = 2.0
SYNC_SECONDS = 1.0


async def serve(config: Config, stop: asyncio.Event) -> int:
    """Run a cache node until `stop` is set, and return the exit code. Raises CannotListen or ConfigError."""
    clock = CorrectedClock(SystemClock(), S3Clock())
    rng = random.random
    tls = config.tls
    certificates = None if tls.files is None else Certificates(tls.files)
    budget = ByteBudget(config.max_in_flight_bytes)
    guarding = guard_process(config.access, clock, config.ports, config.buckets.default)
    access = guarding.access
    make_session(config.s3)  # raises ConfigError for a wrong profile
    credentials = Credentials(config.s3, lambda: make_session(config.s3))
    store = S3(credentials, config.s3, clock, config.freshness.negative_ttl, budget=budget, s3_clock=clock.s3)
    disk_files = await asyncio.to_thread(_disk_files, config)
    try:
        disk = await _open_disk(config)
        parts = build(
            config,
            store,
            disk,
            clock,
            rng,
            budget=budget,
            fresh=(fresh := store.unpooled()),
            lineage=secrets.token_hex(LINEAGE_DIGITS // 2),
            disk_files=disk_files,
        )
    except CannotOpen as error:
        raise ConfigError([f"JOURNAL_DIR: {error}"]) from None
    store.on_request = fresh.on_request = parts.origin.counts.request
    journal, writeback = parts.journal, parts.writeback
    journal.defer(lambda disk: disk.set_metadata(journal_origin.NAME, journal_origin.to_text(_origin_of(config))))
    bucket, prefix = config.buckets.default, config.buckets.prefix
    probe = StoreProbe(parts.origin, bucket, prefix, parts.conditions, clock, rng)
    identity = node_identity(config, parts, uuid.uuid4().hex)
    server = grpc_server(config, parts, identity, access)
    address = server.bind(config.listen, "LISTEN_ADDR", certificates if tls.mode == "on" else None)
    advertised = str(config.advertise or derive_advertised(address, config.routers))
    host = parse_address(advertised).host
    addresses: dict[str, str] = {}
    if tls.mode == "on":
        addresses[GRPC_TLS] = advertised
    elif tls.listen is not None:
        addresses[GRPC_TLS] = str(Address(host, server.bind(tls.listen, "TLS_LISTEN_ADDR", certificates).port))
    _record_user(config, disk.identity, advertised)
    servers = build_servers(
        config,
        parts,
        advertised,
        identity,
        stop.is_set,
        [probe.run],
        certificates=certificates,
        access=access,
        queue=(queue := None if config.events is None else Boto3Queue(credentials, config.events)),
    )
    status, resp = servers.status, servers.resp
    try:
        with process.no_cycle_search():
            replayed = await parts.replay(str(config.journal))
    except CannotOpen as error:
        raise ConfigError([f"JOURNAL_DIR: {error}"]) from None
    ops = OpsServer(
        metrics_registry(parts, servers, replayed, certificates, guarding),
        status.not_ready,
        status.degraded,
        access,
        security=certificates if tls.mode != "off" else None,
        plain_too=tls.mode == "both",
        certificate_required=tls.demands_certificates,
        remarks=servers.copies.remarks,
    )
    resp_listens = []
    if config.resp is not None or config.resp_tls is not None:
        status.ring_epoch = lambda: servers.ownership.epoch
    if config.resp is not None:
        resp_listens.append(await resp.start(config.resp))
        addresses[RESP] = advertised_resp(resp_listens[-1], parse_address(advertised), "RESP_ADDR")
    if config.resp_tls is not None and certificates is not None:
        resp_listens.append(resp.start_tls(config.resp_tls, certificates))
        addresses[RESP_TLS] = advertised_resp(resp_listens[-1], parse_address(advertised), "RESP_TLS_ADDR")
    endpoint = None
    if config.s3_endpoint is not None:
        # Imported where it is served: its libraries take a tenth of a second of each start, and memory.
        from milena_cache.servers.s3.assembly import S3Endpoint

        security = certificates if tls.mode != "off" else None
        endpoint = S3Endpoint(
            config,
            config.s3_endpoint,
            servers.objects,
            access,
            parts.budget,
            servers.s3_counts,
            clock,
            security,
        )
        s3_listens = endpoint.server.start(config.s3_endpoint.listen, "S3_LISTEN_ADDR")
        log.info("S3 endpoint on %s", s3_listens)
        # For routers, which send requests of S3 clients there.
        where = str(Address(host, s3_listens.port) if s3_listens.is_wildcard else s3_listens)
        addresses[S3_HTTP] = where if tls.mode != "on" else ""
        addresses[S3_HTTPS] = where if tls.mode != "off" else ""
    metrics = await ops.start(config.metrics, "METRICS_PORT")
    member = NodeDescription(
        address=advertised,
        node_id=identity.node_id,
        weight=config.weight,
        addresses={
            "ops": str(Address(host, metrics.port)),
            **{name: where for name, where in addresses.items() if where},
        },
        default_bucket=bucket,
        journal_id=disk.identity.journal,
        copies=config.copies if config.copies > 1 and resp_listens else 0,
        zone=config.zone,
    )
    to_routers = certificates if config.routers_tls else None
    connect = partial(AsyncGrpcTransport, certificates=to_routers, credentials=access.credentials)
    membership = build_membership(parts, servers, member, config.routers, connect)
    await server.start(servers.grpc_methods, servers.calls, pieces=servers.grpc_pieces)
    log.info(
        "cache node %s listens on %s, RESP server on %s, metrics on %s://%s/metrics; bucket %s, %d entries, %d MiB",
        advertised,
        address,
        ", ".join(map(str, resp_listens)) or "off",
        "https" if tls.mode == "on" else "http",
        metrics,
        bucket,
        config.max_entries,
        config.max_bytes // 2**20,
    )
    work = (
        servers.bucket_check.run(),
        servers.s3_watch.run(),
        writeback.run(),
        watch_clock(parts.origin, bucket, clock),
        parts.samples.sizing.run(),
    )
    background = [asyncio.create_task(each) for each in work]
    background += [asyncio.create_task(each.run()) for each in membership.registrations]
    background.append(asyncio.create_task(membership.promise_requests.run()))
    background.append(asyncio.create_task(membership.ring_offers.run()))
    if parts.disk_cache is not None:
        background.append(asyncio.create_task(parts.disk_cache.run()))
    if servers.events.consumer is not None:
        heartbeats = servers.events.heartbeats
        events = (servers.events.consumer.run(), heartbeats.watch(), heartbeats.write_all())
        background += [asyncio.create_task(each) for each in events]
    if endpoint is not None:
        background.append(asyncio.create_task(endpoint.keys.watch(clock)))
    if certificates is not None:
        background.append(asyncio.create_task(certificates.run(clock, tls.reload_seconds)))
    background.append(asyncio.create_task(guarding.files.watch(access, clock)))
    # A node that has left continues to watch the ring, so that it can redirect late requests to the new owners.
    watching = [asyncio.create_task(each.follow_ring()) for each in membership.registrations]
    try:
        await _either(stop, journal.failed)
        await server.set_serving(False)
        if not journal.failure:
            until = clock.now() + config.drain
            saving = asyncio.create_task(_save(parts, until))
            # The other half is for uploads, if no node takes the slots.
            await _hand_over(servers, membership, clock, config.drain / 2)
            await _drain(parts.writes, parts.flush_waiters, journal, max(0.0, until - clock.now()))
            if servers.ownership.slot_map.released_epoch:
                # Giving the lease back ends acknowledgements: those of writes in flight come first.
                servers.ownership.close("this node leaves the ring")
                with suppress(TimeoutError):
                    await asyncio.wait_for(journal.sync_barrier(), SYNC_SECONDS)
                    await asyncio.wait_for(servers.copies.replication.wait_idle(), SYNC_SECONDS)
                await parts.writes.finish(SYNC_SECONDS)
            await saving
        for task in background:
            task.cancel()
        # Dirty writes that are left go to the owners in the ring without this node, if there are any.
        hand_in_seconds = HAND_IN_SECONDS if servers.handover.can_leave and not journal.failure else 0.0
        await asyncio.gather(*(each.leave_ring(LEAVE_SECONDS) for each in membership.registrations))
        await asyncio.sleep(LINGER_SECONDS)
        await asyncio.gather(
            server.stop(STOP_GRACE_SECONDS),
            resp.stop(STOP_GRACE_SECONDS),
            *(() if endpoint is None else (endpoint.server.shut_down(STOP_GRACE_SECONDS),)),
            _hand_in(servers.handover, parts.dirty, membership, clock, hand_in_seconds),
        )
        undone = await parts.writes.finish(FINISH_SECONDS)
        if undone:
            log.error("%d writes, none of them acknowledged, were abandoned: S3 did not respond", undone)
        await parts.node.finish()
        await parts.uploads.close()
        parts.sweeps.close()
        await parts.property_reads.cancel_heads()
        await servers.cluster_blocks.cancel_all()
        await parts.blocks.cancel_all()
        await parts.withheld.cancel_looks()
    finally:
        for task in (*background, *watching):
            task.cancel()
        await writeback.stop()
        await servers.handover.cancel_moves()
        await servers.copies.promotion.cancel_promoting()
        await membership.late_writes.cancel()
        servers.peer_listings.cancel()
        await servers.copies.replication.close()
        links = (servers.peers, servers.copy_peers, servers.block_peers, servers.s3_peers)
        await asyncio.gather(*(each.close() for each in links))
        await asyncio.gather(*(each.close() for each in membership.registrations))
        if queue is not None:
            queue.close()
        await parts.origin.close()
        await ops.stop()
        await journal.close()
        if parts.disk_cache is not None:
            await parts.disk_cache.close()
        guarding.audit.close()
    code = exit_code(journal, parts.dirty, parts.failed_writes, config.journal)
    log.info("cache node stopped")
    return code


def _origin_of(config: Config) -> str:
    """Return the bucket and prefix that the journal's writes are for, as one text."""
    return f"s3://{config.buckets.default}/{config.buckets.prefix}"


async def _open_disk(config: Config) -> LmdbDisk:
    """Return the journal's disk. Raises CannotOpen."""
    directory = Path(config.journal)
    origin = _origin_of(config)
    # In a thread, so that the event loop stays responsive; at a start only tests have other work for it.
    await asyncio.to_thread(trial, directory)
    disk = LmdbDisk(directory, config.dirty_max_bytes + config.dirty_copy_bytes)
    recorded = journal_origin.from_text(disk.metadata().get(journal_origin.NAME, origin))
    if recorded != origin and disk.records(-1, 1):
        await disk.close()
        raise CannotOpen(
            f"{directory}: has writes for {recorded}, and S3_BUCKET and S3_PREFIX say {origin}; start with the "
            "old ones until `milena writeback status` shows none, or use another directory"
        )
    return disk


def _disk_files(config: Config) -> DirectoryFiles | None:
    """Return the files of the disk cache, of which this process takes possession; None without one.

    Raises ConfigError if another process has them.
    """
    if config.disk_cache is None:
        return None
    try:
        return DirectoryFiles(Path(config.disk_cache.directory))
    except CannotOpen as error:
        raise ConfigError([f"DISK_CACHE_DIR: {error}"]) from None


def _record_user(config: Config, identity: JournalIdentity, node: str) -> None:
    """Record in the journal's directory which node uses it, for operators; a failure does not prevent a start."""
    try:
        record_node(Path(config.journal), identity, node)
    except OSError as error:
        log.warning("journal %s: could not record that this node uses it: %s", config.journal, error.strerror)


async def _save(parts: NodeParts, until: float) -> None:
    """Write what is hot in memory to the disk cache, until `until` (monotonic seconds), for the next start."""
    if parts.disk_cache is not None:
        saved = await parts.disk_cache.save(list(parts.memory.newest_first()), parts.memory.peek, until)
        log.info("disk cache: wrote %d values before the stop", saved)


async def _either(*events: asyncio.Event) -> None:
    """Return when one of the events is set."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for each in tasks:
        each.cancel()


async def _hand_over(servers: Servers, membership: Membership, clock: Clock, seconds: float) -> None:
    """Have all slots and copies moved to other nodes, if there are any that take them, within `seconds`.

    The node serves meanwhile. Whatever is left is uploaded, as in a ring whose nodes do not hand over.
    """
    handover, promotion = servers.handover, servers.copies.promotion
    if not handover.can_leave:
        return
    handover.leaving = True
    handover.source.paced = False
    for registration in membership.registrations:
        registration.renew_if_changed()
    until = clock.now() + seconds
    while (handover.has_slots or promotion.is_needed) and handover.can_leave and clock.now() < until:
        await clock.sleep(HANDOVER_PAUSE_SECONDS)
    handover.source.abort_all()
    log.info("handed over %d slots before the stop", handover.source.moved)


async def _hand_in(handover: Handover, dirty: Dirty, membership: Membership, clock: Clock, seconds: float) -> None:
    """Wait until the owners have the writes of this node, which has left, at most `seconds`; notify the routers."""
    until = clock.now() + seconds
    while (dirty.waiting or handover.former_owner.busy) and clock.now() < until:
        await clock.sleep(HANDOVER_PAUSE_SECONDS)
    if not handover.former_owner.busy:
        await asyncio.gather(*(each.handed_in(LEAVE_SECONDS) for each in membership.registrations))


async def _drain(writes: Writes, flush_waiters: FlushWaiters, journal: Journal[DirtyEntry], seconds: float) -> None:
    """Upload dirty writes while the node is still in the ring, so that the next owner finds them in S3."""
    writes.draining = True
    with suppress(TimeoutError):
        await asyncio.wait_for(journal.sync_barrier(), SYNC_SECONDS)
    done = await flush_waiters.wait_flushed(None, seconds)
    log.info("flushed %d writes before the stop, %d remain", done.flushed, done.remaining)


async def run(config: Config, stop: asyncio.Event) -> int:
    """Run a node, or the parent of several (WORKERS), until `stop` is set, and return the exit code."""
    if config.workers > 1:
        return await supervise(config, stop)
    await asyncio.to_thread(check_left_journals, config)
    return await serve(config, stop)


def main() -> None:
    """Run the node until it is stopped, and end the process."""
    process.leave(process.run("milena-cache", lambda env: load(env, memory_limit(), usable_cores()), run))


if __name__ == "__main__":
    main()
