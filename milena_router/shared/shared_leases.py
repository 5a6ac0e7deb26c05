"""Coordination. The leases of a router that shares its ring with other routers, by a `RingStore`.

Changes are made one batch after the other: each is tried on this router's membership, taken back, stored, and made
again once the store has it. If another router was faster, its state is taken over, and the batch is tried again on
that. So the membership never shows what is not stored, and each batch costs one transaction, whatever is in it.

A renewal is stored as the record of its node, on the condition that the state is the one that it was checked with.
The node's lease counts from before that at the node, and from when they see the new record at other routers. A
router that takes a node out of the ring compares its record in the same transaction. The interleavings that this
avoids:

1. Router A sees no renewal of X for a lease; X renews at B; A takes X out. Either the record has another revision
   then, and A's transaction fails, or the state has, and B's fails: X gets no lease.
2. A's transaction takes effect, and its reply is lost. A knows nothing then: it publishes nothing, reads the state,
   and takes that over, like one of another router.
3. The store was away: no renewal could be stored, and all records look old. A router counts no time as silence in
   which it did not reach the store, and grants no lease then.

**Watch for speed, poll for truth.** A router follows the store; and it reads it at least every third of a lease, so
that a stream which has gone silent, or left something out, costs no more than that.

**No state.** When the store has none, or an older one than a node, the ring is recovered from the nodes, as after a
router's restart (`milena_router.ring.recovery`). The routers do that together: the members so far are in the state,
and what nodes report is in their records, which are joins at the other routers too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from google.protobuf.message import DecodeError

from milena_common.api.errors import MilenaError, Unavailable
from milena_common.api.pb import ring_state_pb2
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_runs import Run
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock
from milena_router.ring.joining import Joining, joining
from milena_router.ring.leases import Leases
from milena_router.ring.membership import Change, Membership
from milena_router.ring.recovery import Recovery
from milena_router.ring.shared_state import SharedState, copied, restore, shared_state, take_over
from milena_router.ring.stuck_moves import StuckMove
from milena_router.shared.ring_store import MAX_RECORDS, Record, RingStore, Snapshot, Update, Write
from milena_router.shared.state_message import StateMessages

log = logging.getLogger(__name__)

# Timeout of one read or change. A node's renewal has 2 s, and tries again after that.
STORE_SECONDS = 1.5
# Changes in one batch; each has at most one record.
MAX_BATCH = MAX_RECORDS // 2
# How often a batch is tried before its callers get an error: each time another router was faster.
MAX_TRIES = 20
# The pause before the store is followed again.
BACKOFF = Backoff(first=0.05, max_delay=1.0)

# Changes the membership, at a time on this router's clock and of the day.
Operation = Callable[[float, float], list[Change]]


class _Renewal(NamedTuple):
    """The record that is stored with a Join, if the process is a member then."""

    address: str
    node_id: str
    record: bytes


@dataclass
class _Request:
    """An operation for the next batch, and the renewal that it is, if it is one."""

    operation: Operation
    renewal: _Renewal | None
    done: asyncio.Future[list[Change]]


@dataclass
class StoreCounts:
    """What the metrics show of the store.

    reachable: False if the last call failed
    conflicts: changes that were tried again, because another router had changed the state
    failures: calls that failed
    watch_restarts: how often following it ended
    """

    reachable: bool = False
    conflicts: int = 0
    failures: int = 0
    watch_restarts: int = 0


@dataclass
class _View:
    """What this router knows of the store.

    valid: False before the first read, and after an error
    revision: up to which it has seen all changes
    state_revision: that of the state that it has taken over or stored; 0 if there is none
    records: the revisions of the records, by the addresses of nodes
    last_rings: in recovery, what nodes have sent, by their addresses
    """

    valid: bool = False
    revision: int = 0
    state_revision: int = 0
    records: dict[str, int] = field(default_factory=dict)
    last_rings: dict[str, pb.LastRing] = field(default_factory=dict)


class SharedLeases(Leases):
    """`Leases` whose ring is that of all routers of `store`.

    new_recovery: returns the state of a recovery that begins
    new_id: returns bytes that no other change has
    """

    def __init__(
        self,
        membership: Membership,
        clock: Clock,
        store: RingStore,
        on_change: Callable[[Change], None],
        on_released: Callable[[], None],
        new_recovery: Callable[[], Recovery],
        new_id: Callable[[], bytes],
        rng: Callable[[], float],
    ) -> None:
        super().__init__(membership, clock, on_change, on_released)
        self.counts = StoreCounts()
        self._store = store
        self._new_recovery = new_recovery
        self._new_id = new_id
        self._rng = rng
        self._problem = ""  # why the store cannot be used
        self._messages = StateMessages()
        self._view = _View()
        self._stored = shared_state(membership)
        self._queue: list[_Request] = []
        self._queued = asyncio.Event()
        # Held while the membership is changed, and while a change of it is on its way to the store.
        self._lock = asyncio.Lock()

    def degraded(self) -> list[str]:
        reasons = super().degraded()
        if self._problem:
            reasons.append(f"this router renews no lease, and changes no ring: {self._problem}")
        return reasons

    # ---- what callers request

    async def request_join(self, request: pb.JoinRequest) -> Joining:
        reported = joining(request, self._clock.wall())
        address = reported.member.address

        def join(now: float, wall: float) -> list[Change]:
            membership, known = self.membership, reported.known
            outdated = known.cluster_id == membership.cluster_id and known.ring_epoch > membership.ring.epoch
            if outdated and not membership.recovering and membership.ring.epoch:
                log.error(
                    "node %s has the ring with epoch %d, and etcd an older one, with epoch %d, as after a restore "
                    "from a copy: the ring is recovered from the nodes",
                    address,
                    known.ring_epoch,
                    membership.ring.epoch,
                )
                membership.recover_again(self._new_recovery())
            change = membership.join(
                reported.member,
                reported.default_bucket,
                reported.seen_epoch,
                now,
                wall,
                known,
                reported.node_status,
                reported.status,
            )
            return [change] if change else []

        record = self._record_of(request, address)
        await self._request(join, _Renewal(address, reported.member.node_id, record))
        return reported

    async def request_leave(self, address: str, node_id: str, node_status: NodeStatus | None) -> bool:
        known = False

        def leave(now: float, wall: float) -> list[Change]:
            nonlocal known
            if self.recovering:
                known = self.membership.withdraw(address, node_id, wall, node_status)
                return []
            change = self.membership.remove_member(address, node_id, now, wall, node_status)
            known = change is not None
            return [change] if change else []

        await self._request(leave)
        return known

    async def request_exit(self, address: str, node_id: str) -> bool:
        return await self._request_one(
            lambda now, wall: self.membership.process_exited(address, node_id, now, wall)
        )

    async def request_abandon(self, move: StuckMove, slots: Sequence[Run]) -> bool:
        return await self._request_one(lambda now, wall: self.membership.abandon(move, slots, now, wall))

    async def request_write_off(self, address: str) -> bool:
        return await self._request_one(lambda _, wall: self.membership.write_off(address, wall))

    async def _request_one(self, operation: Callable[[float, float], Change | None]) -> bool:
        changes = await self._request(lambda now, wall: [*filter(None, [operation(now, wall)])])
        return bool(changes)

    async def _request(self, operation: Operation, renewal: _Renewal | None = None) -> list[Change]:
        """Make a change with the next batch; return it once it is stored. Raises MilenaError."""
        done: asyncio.Future[list[Change]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Request(operation, renewal, done))
        self._queued.set()
        return await done

    def _record_of(self, request: pb.JoinRequest, address: str) -> bytes:
        """Return the record of a node's renewal."""
        kept = pb.JoinRequest()
        kept.CopyFrom(request)
        kept.ClearField("taken")
        # A later renewal has no ring. A router that reads only that one must have the ring too.
        if request.HasField("last_ring"):
            self._view.last_rings[address] = request.last_ring
        elif self.recovering and address in self._view.last_rings:
            kept.last_ring.CopyFrom(self._view.last_rings[address])
        return ring_state_pb2.LeaseRecord(
            request=kept, lease_seconds=self.membership.lease_seconds
        ).SerializeToString()

    # ---- what runs

    async def run(self) -> None:
        """Make the requested changes, follow the store, and expire leases, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._make_changes())
            group.create_task(self._follow())
            group.create_task(self._expire())

    async def _make_changes(self) -> None:
        while True:
            await self._queued.wait()
            batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
            if not self._queue:
                self._queued.clear()
            try:
                async with self._lock:
                    await self._make(batch)
            except MilenaError as error:
                for request in batch:
                    if not request.done.done():
                        request.done.set_exception(error)

    async def _expire(self) -> None:
        """Read the store every third of a lease at least, and take out the nodes whose leases are over."""
        read_at = self._clock.now()
        while True:
            await self._clock.sleep(min(self.membership.lease_seconds / 10, STORE_SECONDS))
            if self._clock.now() - read_at >= self.membership.lease_seconds / 5 or not self.counts.reachable:
                try:
                    async with self._lock:
                        await self._read()
                except MilenaError as error:
                    log.debug("%s", error)
                    continue
                read_at = self._clock.now()
            try:
                await self._request(self._expired)
            except MilenaError as error:
                log.debug("%s", error)

    def _expired(self, now: float, wall: float) -> list[Change]:
        """Take out the nodes whose leases are over, as many as fit into one change; plan moves."""
        membership = self.membership
        over = sorted((lease.until, address) for address, lease in membership.leases.items() if lease.until <= now)
        if len(over) < len(membership.leases):
            for _, address in over[MAX_BATCH:]:
                membership.leases[address].until = now + membership.lease_seconds / 10
        changes = membership.expire(now, wall)
        moves = membership.balance(wall)
        return [*changes, moves] if moves else changes

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                if not self._view.valid:
                    async with self._lock:
                        await self._read()
                async with aclosing(self._store.follow(self._view.revision + 1)) as updates:
                    async for update in updates:
                        failures = 0
                        async with self._lock:
                            self._updated(update)
            except MilenaError as error:
                failures += 1
                self.counts.watch_restarts += 1
                log.info("following the ring in etcd ended, and begins again: %s", error)
                await self._clock.sleep(BACKOFF.delay(failures, self._rng))
                try:
                    async with self._lock:
                        await self._read()
                except MilenaError as again:
                    log.debug("%s", again)

    # ---- the store; the lock is held

    async def _make(self, batch: Sequence[_Request]) -> None:
        """Make the changes of `batch`, and give their callers the results. Raises MilenaError."""
        for _ in range(MAX_TRIES):
            if not self._view.valid:
                await self._read()
            before = copied(self.membership)
            results, records = self._try(batch)
            due = self._try_due()
            after = shared_state(self.membership)
            changed = after != self._stored
            if not changed and not records:
                self._finish(batch, results, due)
                return
            change = self._write_of(after if changed else None, records)
            tried = copied(self.membership)
            # What is published meanwhile is what the store has.
            restore(self.membership, before)
            try:
                revision = await self._store.write(change, STORE_SECONDS)
            except Unavailable as error:
                self._failed(error)
                raise Unavailable(f"the ring could not be changed, or is not known to be: {error}") from None
            self._reached()
            if revision is not None:
                restore(self.membership, tried)
                for name, value in change.records.items():
                    self._view.records[name] = 0 if value is None else revision
                if changed:
                    self._view.state_revision = revision
                    self._stored = after
                self._finish(batch, results, due)
                return
            self.counts.conflicts += 1
            await self._read()
        raise Unavailable("the ring could not be changed: other routers changed it each time")

    def _try(self, batch: Sequence[_Request]) -> tuple[list[list[Change] | MilenaError], dict[str, bytes | None]]:
        """Make the changes on the membership; return their results, and the records that go with them."""
        results: list[list[Change] | MilenaError] = []
        records: dict[str, bytes | None] = {}
        for request in batch:
            try:
                results.append(request.operation(self._clock.now(), self._clock.wall()))
            except MilenaError as error:
                results.append(error)
                continue
            renewal = request.renewal
            lease = self.membership.leases.get(renewal.address) if renewal else None
            # A caller that sends only an address renews no process's lease.
            if renewal and lease is not None and lease.member.node_id == renewal.node_id:
                records[renewal.address] = renewal.record
        return results, records

    def _try_due(self) -> list[Change]:
        """Do what is due by now, with every batch: end the recovery, and release what is proved."""
        now, wall = self._clock.now(), self._clock.wall()
        changes = self.membership.recover(now, wall)
        self.membership.releases.drop_proved(now)
        return changes

    def _write_of(self, state: SharedState | None, records: dict[str, bytes | None]) -> Write:
        """Return the change of the store that goes with `state`, None if that does not change."""
        view = self._view
        if state is None:
            return Write(view.state_revision, None, records)
        before = {each.member.address: each.member.node_id for each in self._stored.members}
        after = {each.member.address: each.member.node_id for each in state.members}
        # What is decided about these nodes depends on when their leases end.
        gone = [address for address, node_id in before.items() if after.get(address) != node_id]
        for address, revision in view.records.items():
            if revision and address not in after and address not in records and len(records) < MAX_RECORDS:
                records[address] = None
        return Write(
            view.state_revision,
            self._messages.to_bytes(state, self._new_id(), self._clock.now()),
            records,
            {address: view.records.get(address, 0) for address in gone[:MAX_RECORDS]},
        )

    def _finish(
        self,
        batch: Sequence[_Request],
        results: Sequence[list[Change] | MilenaError],
        due: Sequence[Change],
    ) -> None:
        """Publish what has changed, and then give the callers their results."""
        self._publish()
        found = [change for result in results if isinstance(result, list) for change in result]
        for change in (*found, *due):
            # Only the ring after the whole batch is stored, and exists.
            self._announce(replace(change, ring=self.ring))
        self._publish_released()
        for request, result in zip(batch, results, strict=True):
            if request.done.done():
                continue
            if isinstance(result, MilenaError):
                request.done.set_exception(result)
            else:
                request.done.set_result(result)

    def _publish(self) -> None:
        """Let requests wait, or go on, with the beginning or the end of a recovery."""
        if self.recovering:
            self._recovered.clear()
        elif not self._recovered.is_set():
            self._view.last_rings.clear()
            self._publish_recovered()

    async def _read(self) -> None:
        """Read the store, and take over what it has. Raises MilenaError."""
        try:
            self._take_over(await self._store.read(STORE_SECONDS))
        except MilenaError as error:
            self._failed(error)
            raise
        self._reached()

    def _reached(self) -> None:
        if not self.counts.reachable:
            log.info("etcd responds, and this router renews leases")
        self.counts.reachable = True
        self._problem = ""

    def _failed(self, error: MilenaError) -> None:
        if self.counts.reachable or not self._problem:
            log.warning("this router cannot use etcd, and renews no lease: %s", error)
        self._problem = str(error)
        self.counts.failures += 1
        self.counts.reachable = False
        self._view.valid = False

    def _take_over(self, snapshot: Snapshot) -> None:
        """Take over all that the store has. Raises FailedPrecondition if it is of a newer version."""
        view = self._view
        now = self._clock.now()
        if not snapshot.state.revision and view.state_revision:
            log.error("etcd has no state of the ring any more: the ring is recovered from the nodes")
            view.records.clear()
            view.state_revision = 0
            self.membership.recover_again(self._new_recovery())
            self._stored = shared_state(self.membership)
            self._publish()
        elif snapshot.state.revision != view.state_revision:
            self._take_over_state(snapshot.state, now)
        for name in [name for name in view.records if name not in snapshot.records]:
            del view.records[name]
        self._take_over_records(snapshot.records, now)
        view.revision, view.valid = snapshot.revision, True

    def _updated(self, update: Update) -> None:
        """Take over what has changed, if it is newer than what is known. Raises FailedPrecondition."""
        view = self._view
        if not view.valid or update.revision <= view.revision:
            return
        now = self._clock.now()
        if update.state is not None and not update.state.revision:
            view.valid = False  # deleted: it is read with the next change
            return
        if update.state is not None and update.state.revision > view.state_revision:
            self._take_over_state(update.state, now)
        self._take_over_records(update.records, now)
        view.revision = update.revision

    def _take_over_state(self, record: Record, now: float) -> None:
        membership = self.membership
        state, _ = self._messages.from_bytes(record.value, now)
        before = membership.ring
        take_over(membership, state, now, self._new_recovery())
        self._stored = state
        self._view.state_revision = record.revision
        self._publish()
        ring = membership.ring
        if ring.epoch != before.epoch and not self.recovering:
            old = {member.address: member for member in before.members}
            new = {member.address: member for member in ring.members}
            changed = [address for address in old.keys() | new.keys() if old.get(address) != new.get(address)]
            log.info("Follow epoch=%d ring_size=%d changed=%s", ring.epoch, len(new), ",".join(sorted(changed)[:5]))
            for address in changed or [""]:
                kind = "Move" if not changed else "Join" if address in new else "Leave"
                self._on_change(Change(kind, address, "by another router", ring))
        self._publish_released()

    def _take_over_records(self, records: Mapping[str, Record], now: float) -> None:
        """See the renewals that other routers have stored; in a recovery, what the nodes reported with them."""
        view, membership = self._view, self.membership
        for name, record in records.items():
            if record.revision <= view.records.get(name, 0) and record.revision:
                continue
            view.records[name] = record.revision
            lease = membership.leases.get(name)
            if lease is None or not record.revision:
                continue
            try:
                message = ring_state_pb2.LeaseRecord.FromString(record.value)
                reported = joining(message.request, self._clock.wall())
            except (DecodeError, MilenaError) as error:
                log.warning("the record of node %s in etcd is not valid: %s", name, error)
                continue
            member = reported.member
            if membership.recovering and member.node_id == lease.member.node_id:
                if message.request.HasField("last_ring"):
                    view.last_rings[name] = message.request.last_ring
                bucket, epoch, known = reported.default_bucket, reported.seen_epoch, reported.known
                status, part = reported.node_status, reported.status
                membership.join(member, bucket, epoch, now, self._clock.wall(), known, status, part)
            membership.renewed_elsewhere(
                name,
                member.node_id,
                message.lease_seconds,
                now,
                message.request.acknowledged_epoch,
                reported.node_status,
                message.request.status_number,
            )
