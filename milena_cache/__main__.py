"""Wires the cache node: environment → configuration → parts → run."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import uuid
from contextlib import suppress
from pathlib import Path

from milena_cache.configuration.advertised import advertised_resp, derive_advertised
from milena_cache.configuration.config import Config, load
from milena_cache.exit_code import exit_code
from milena_cache.journal.disk import CannotOpen
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.identity import JournalIdentity, record_node
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.trial import trial
from milena_cache.membership.identity import NodeIdentity
from milena_cache.membership.late_writes import LateWriteInvalidation
from milena_cache.membership.ownership import Ownership
from milena_cache.membership.peers import Peers
from milena_cache.membership.registration import Identity, Registration
from milena_cache.memory.entries import Entries
from milena_cache.memory.lru import Memory
from milena_cache.memory.single_flight import SingleFlight
from milena_cache.metrics import node_registry
from milena_cache.objects.lineage import LINEAGE_DIGITS, lineage_of_cluster
from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.origin.bucket_check import BucketCheck
from milena_cache.origin.clients.boto3_session import make_session
from milena_cache.origin.clock_watch import watch_clock
from milena_cache.origin.conditions import Conditions
from milena_cache.origin.health_probe import S3Watch
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.clock import CorrectedClock, S3Clock
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3_store import S3
from milena_cache.origin.store_probe import StoreProbe
from milena_cache.reads.reader import FetchResult, Node
from milena_cache.servers.grpc.budgeted_get import BudgetedGet
from milena_cache.servers.grpc.methods import OPERATIONS, SERVICE, CacheService, limited
from milena_cache.servers.resp.assembly import resp_server
from milena_cache.service.status import Status
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.loop import WriteBack
from milena_cache.writeback.recovery import replay
from milena_cache.writeback.uploads.throttle import UploadThrottle
from milena_cache.writeback.uploads.upload import Uploader
from milena_cache.writes.write_through import WriteThrough
from milena_cache.writes.writer import Writes
from milena_common.api.errors import ConfigError
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_map_watch import AsyncRingWatch
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.memory_limit import memory_limit
from milena_common.limits.token_bucket import TokenBucket
from milena_common.metrics.call_counts import CallCounts
from milena_common.metrics.http_server import OpsServer
from milena_common.network.addresses import Address, parse_address
from milena_common.process import run as process
from milena_common.rpc.channel import AsyncGrpcTransport
from milena_common.rpc.server import GrpcServer
from milena_common.runtime.clock import Clock, SystemClock
from milena_common.runtime.key_locks import KeyLocks

log = logging.getLogger("milena_cache")

# After the drain, the parts of a stop add up to less than 10 s.
LEAVE_SECONDS = 1.0
# Requests that the router sent before it took the leave may still be on their way.
LINGER_SECONDS = 0.3
STOP_GRACE_SECONDS = 6.0
FINISH_SECONDS = 2.0
SYNC_SECONDS = 1.0
# A router with DIRECT_ACCESS=false gives the ring to a node that has joined, which takes a moment.
RING_PAUSE_SECONDS = 1.0


async def serve(config: Config, stop: asyncio.Event) -> int:
    """Run a cache node until `stop` is set, and return the exit code. Raises CannotListen or ConfigError."""
    clock = CorrectedClock(SystemClock(), S3Clock())
    rng = random.random
    budget = ByteBudget(config.max_in_flight_bytes)
    make_session(config.s3)  # what is wrong with it is found now
    credentials = Credentials(config.s3, lambda: make_session(config.s3))
    store = S3(credentials, config.s3, clock, config.freshness.negative_ttl, budget=budget, s3_clock=clock.s3)
    origin = Origin(
        store,
        clock,
        rng,
        fresh=(fresh := store.unpooled()),
        retries=config.s3_retries,
        concurrency=config.s3_concurrency,
        place_timeout=config.request_timeout,
        hedge_after=config.hedge_after,
    )
    store.on_request = fresh.on_request = origin.counts.request
    journal, journal_identity = await _open_journal(config, clock)
    memory = Memory(config.max_entries, config.max_bytes)
    # A read and its hedge have had their time.
    fetches: SingleFlight[FetchResult] = SingleFlight(late_after=2 * config.hedge_after)
    entries = Entries(memory, fetches, config.freshness, clock)
    dirty = Dirty(config.dirty_max_bytes, config.dirty_memory_bytes)
    conditions = Conditions(config.s3_conditions)
    uploader = Uploader(origin, conditions, journal.lineages)
    origin.observed = journal.learn
    reads = ReadCounts()
    writeback = WriteBack(
        dirty,
        journal,
        uploader,
        entries,
        KeyLocks(),
        config.buckets,
        reads,
        clock,
        rng,
        budget,
        # A write that S3 leaves without an answer must not take the last place of those that S3_CONCURRENCY allows.
        throttle=UploadThrottle(min(config.flush_concurrency, config.s3_concurrency), rng),
        delay=config.flush_delay,
        policy=config.write_conflict,
        stuck_after=config.stuck_after,
    )
    writes = Writes(
        origin=origin,
        write_through=WriteThrough(uploader, journal, dirty, writeback, entries, clock, rng, config.s3_retries),
        journal=journal,
        dirty=dirty,
        writeback=writeback,
        entries=entries,
        clock=clock,
        mode=config.write_mode,
        max_value_bytes=config.max_value_bytes,
    )
    node = Node(
        store=origin,
        memory=memory,
        fetches=fetches,
        entries=entries,
        dirty=dirty,
        writes=writes,
        reads=reads,
        freshness=config.freshness,
        buckets=config.buckets,
        clock=clock,
        max_value_bytes=config.max_value_bytes,
        revalidate_timeout=config.revalidate_timeout,
    )
    calls = CallCounts((*OPERATIONS, "other"))
    bucket, prefix = config.buckets.default, config.buckets.prefix
    probe = StoreProbe(origin, store.thorough, bucket, prefix, conditions, clock, rng)
    watch = BucketCheck(origin, bucket, clock, rng, [probe.run])
    me = NodeIdentity(
        config.buckets.default,
        uuid.uuid4().hex,
        journal.disk.metadata().get("cluster", ""),
        lambda: bool(dirty.entries),
        lambda cluster_id: journal.defer(lambda disk: disk.set_metadata("cluster", cluster_id)),
    )
    server = GrpcServer(SERVICE, config.max_value_bytes, budget, config.request_timeout, check=me.check)
    address = server.bind(config.listen, "LISTEN_ADDR")
    advertised = str(config.advertise or derive_advertised(address, config.routers))
    _record_user(config, journal_identity, advertised)
    status = Status(node, origin.counts, calls, watch, journal, writeback, config.dirty_max_age, stop.is_set, clock)
    status.concerns += [conditions, s3_watch := S3Watch(origin, bucket, clock)]
    service = CacheService(node, writeback, config.buckets, advertised, config.request_timeout, status)
    try:
        replayed = await replay(journal, dirty, writeback, clock, str(config.journal))
    except CannotOpen as error:
        raise ConfigError([f"JOURNAL_DIR: {error}"]) from None
    ownership = Ownership(advertised)
    limiter = TokenBucket(config.rate_limit, clock.now())
    redis = resp_server(
        config=config,
        node=node,
        buckets=config.buckets,
        ownership=ownership,
        service=service,
        status=status,
        calls=calls,
        limiter=limiter,
        identity=me,
        clock=clock,
        budget=budget,
    )
    registry = node_registry(
        calls,
        node,
        origin.counts,
        service,
        status,
        writeback,
        uploader,
        journal,
        replayed,
        ownership,
        limiter,
        redis.clients,
        redis.tracking,
        budget,
    )
    ops = OpsServer(registry, status.not_ready, status.degraded)
    resp_listens, resp_address = None, ""
    if config.resp is not None:
        status.ring_epoch = lambda: ownership.epoch
        resp_listens = await redis.start(config.resp)
        resp_address = advertised_resp(resp_listens, parse_address(advertised))
    metrics = await ops.start(config.metrics, "METRICS_PORT")
    identity = Identity(
        address=advertised,
        node_id=me.node_id,
        weight=config.weight,
        addresses={
            "ops": str(Address(parse_address(advertised).host, metrics.port)),
            **({"resp": resp_address} if resp_address else {}),
        },
        default_bucket=config.buckets.default,
        journal_id=journal_identity.journal,
    )

    peers = Peers(ownership.identity_at)
    late_writes = LateWriteInvalidation(ownership, peers.invalidate, clock)
    writeback.wrote = late_writes.wrote

    def ring_changed(slot_map: SlotMap) -> None:
        changed = ownership.update(slot_map)
        me.ring_changed(ownership.slot_map.cluster_id)
        if ownership.slot_map.cluster_id:
            journal.joined(lineage_of_cluster(ownership.slot_map.cluster_id))
        if changed:
            late_writes.ring_changed()
            redis.ring_changed()

    watches = []
    for router in config.routers:
        connection = AsyncGrpcTransport(str(router))
        registration = Registration(
            str(router),
            connection,
            identity,
            clock,
            rng,
            lambda: journal.versions.epoch,
            lambda: ownership.slot_map,
            me,
            status.for_routers,
        )
        status.registrations.append(registration)
        watches.append(
            AsyncRingWatch(
                connection,
                clock,
                rng,
                ring_changed,
                node_id=identity.node_id,
                rejected_pause=RING_PAUSE_SECONDS,
                on_disconnected=registration.hurry,
            )
        )
    await server.start(limited(BudgetedGet(service, budget, clock).methods(), limiter, clock), calls)
    log.info(
        "cache node %s listens on %s, Redis door on %s, metrics on http://%s/metrics; "
        "bucket %s, %d entries, %d MiB",
        advertised,
        address,
        resp_listens or "off",
        metrics,
        config.buckets.default,
        config.max_entries,
        config.max_bytes // 2**20,
    )
    background = [asyncio.create_task(each) for each in (watch.run(), s3_watch.run(), writeback.run())]
    background.append(asyncio.create_task(watch_clock(origin, config.buckets.default, clock)))
    background += [asyncio.create_task(each.run()) for each in status.registrations]
    # A node that has left goes on watching: to requests that come late it can say who has their slots.
    watching = [asyncio.create_task(each.run()) for each in watches]
    try:
        await _either(stop, journal.failed)
        await server.set_serving(False)
        if not journal.failure:
            await _drain(writes, writeback, journal, config.drain)
        for task in background:
            task.cancel()
        await asyncio.gather(*(each.leave(LEAVE_SECONDS) for each in status.registrations))
        await asyncio.sleep(LINGER_SECONDS)
        await asyncio.gather(server.stop(STOP_GRACE_SECONDS), redis.stop(STOP_GRACE_SECONDS))
        undone = await writes.finish(FINISH_SECONDS)
        if undone:
            log.error("%d writes, none of them acknowledged, were given up: S3 did not answer", undone)
        await node.finish()
    finally:
        for task in (*background, *watching):
            task.cancel()
        await writeback.stop()
        await late_writes.stop()
        await peers.close()
        await asyncio.gather(*(each.close() for each in status.registrations))
        await origin.close()
        await ops.stop()
        await journal.close()
    code = exit_code(journal, dirty, writeback, config.journal)
    log.info("cache node stopped")
    return code


async def _open_journal(config: Config, clock: Clock) -> tuple[Journal[DirtyEntry], JournalIdentity]:
    """Raises ConfigError naming the variable."""
    directory = Path(config.journal)
    origin = f"s3://{config.buckets.default}/{config.buckets.prefix}"
    try:
        # In a thread: the event loop has other work at a start only in tests, and must stay there for it.
        await asyncio.to_thread(trial, directory)
        disk = LmdbDisk(directory, config.dirty_max_bytes)
        recorded = disk.metadata().get("origin", origin)
        if recorded != origin and disk.records(-1, 1):
            await disk.close()
            raise CannotOpen(
                f"{directory}: has writes for {recorded}, and S3_BUCKET and S3_PREFIX say {origin}; start with the "
                "old ones until `milena writeback status` shows none, or use another directory"
            )
        journal: Journal[DirtyEntry] = Journal(disk, clock, secrets.token_hex(LINEAGE_DIGITS // 2))
    except CannotOpen as error:
        raise ConfigError([f"JOURNAL_DIR: {error}"]) from None
    journal.defer(lambda disk: disk.set_metadata("origin", origin))
    return journal, disk.identity


def _record_user(config: Config, identity: JournalIdentity, node: str) -> None:
    """Note beside the journal which node uses it. It is for people: a full disk does not prevent a start."""
    try:
        record_node(Path(config.journal), identity, node)
    except OSError as error:
        log.warning("journal %s: could not note that this node uses it: %s", config.journal, error.strerror)


async def _either(*events: asyncio.Event) -> None:
    """Return when one of them is set."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for each in tasks:
        each.cancel()


async def _drain(writes: Writes, writeback: WriteBack, journal: Journal[DirtyEntry], seconds: float) -> None:
    """Bring what is dirty to S3 while the node is still in the ring, so that the next owner finds it there."""
    writes.draining = True
    with suppress(TimeoutError):
        await asyncio.wait_for(journal.sync_barrier(), SYNC_SECONDS)
    done = await writeback.flush_waiters.wait_flushed(None, seconds)
    log.info("flushed %d writes before the stop, %d remain", done.flushed, done.remaining)


def main() -> None:
    """Run the node until it is stopped, and end the process."""
    process.leave(process.run("milena-cache", lambda env: load(env, memory_limit()), serve))


if __name__ == "__main__":
    main()
