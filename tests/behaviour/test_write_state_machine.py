"""Writes against a model: whatever crashes, fails or interferes, what was acknowledged is what is read and kept.

For each key the model keeps the last write that was acknowledged to survive anything, and what may have come over
it since: writes in the class `memory`, attempts that failed, values of a foreign writer. A read may return one of
these and nothing else; when only the acknowledged write is there, it must return that. What has come to its own end
counts as a delete. In the end everything is flushed, and the same must hold of S3 itself, and of what another node
reads there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from milena_cache.objects.entry import Entry
from milena_cache.objects.expiry import NEVER, is_expired, to_the_millisecond
from milena_cache.objects.object_store import Fault, Ref
from milena_cache.objects.version import Version, stamp
from milena_cache.reads.read_modify_write import DELETE, KEEP, NewValue, Otherwise
from milena_cache.writeback.uploads.s3_belief import UNCONFIRMED
from milena_common.api.errors import ConditionFailed, MilenaError
from tests.cache.node_under_test import BUCKET, FRESHNESS, LINEAGE, OTHER_LINEAGE, SOON, NodeUnderTest
from tests.support.fake_clock import FakeClock, run_ready_tasks
from tests.support.s3.memory_store import WithMetadata, etag_of

T = TypeVar("T")
Value = bytes | None

KEYS = st.sampled_from(["a", "b", "c"])
# How long something exists: shorter than write-back waits, a little longer, longer than most of what happens here.
LIFETIMES = st.sampled_from([0.2, 1.0, 4.0, 100.0])
CLASSES = st.sampled_from(["back", "back", "back", "through", "memory"])
PASSING = [Fault.CONNECT, Fault.TIMEOUT, Fault.INCOMPLETE, Fault.SERVER, Fault.THROTTLED, Fault.BUSY]


class Written(NamedTuple):
    """A write, which is a delete once it has come to its end."""

    value: Value
    expires_at: float = NEVER

    def at(self, wall: float) -> Value:
        return None if is_expired(self.expires_at, wall) else self.value


def s3_time(clock: FakeClock) -> float:
    """The time of day at S3, whatever the node's clock says."""
    return clock.now() + 1_700_000_000.0 - 1000.0


class Truth:
    """What is known of one key."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.kept = Written(None)
        self.since: list[Written] = []
        self.foreign: list[Written] = []

    def acknowledged(self, written: Written, durability: str) -> None:
        if durability == "memory":
            self.since.append(written)
        else:
            self.kept, self.since = written, []

    def may_be(self, value: Value, expires_at: float = NEVER) -> None:
        self.since.append(Written(value, expires_at))

    def foreign_write(self, value: Value) -> None:
        self.foreign.append(Written(value))
        self.may_be(value)

    @property
    def all(self) -> list[Written]:
        return [self.kept, *self.since]

    @property
    def allowed(self) -> list[Value]:
        return [written.at(s3_time(self._clock)) for written in self.all]

    @property
    def certain(self) -> bool:
        return not self.since


# Seconds, real ones: a delete, or a write that expires, waits for room in the journal, which is not made here.
TIMEOUT = 0.1


class WriteMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.number = 0
        self.foreign = False

        async def make() -> NodeUnderTest:
            t = self.node()
            await t.start()
            return t

        self.t = self.run(make())
        self.keys = {key: Truth(self.t.clock) for key in "abc"}

    def node(self) -> NodeUnderTest:
        return NodeUnderTest(
            mode="back", dirty_max_bytes=2200, dirty_memory_bytes=100, max_entries=2, concurrency=2, delay=0.5
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def value(self) -> bytes:
        """One that was never written before."""
        self.number += 1
        return b"%d" % self.number * (1 + self.number % 20)

    def expires_after(self, seconds: float | None) -> float:
        return NEVER if seconds is None else to_the_millisecond(s3_time(self.t.clock) + seconds)

    def write(
        self, key: str, value: Value, durability: Any, seconds: float | None = None, **condition: Any
    ) -> bool:
        """Put or delete; whether it was acknowledged."""
        t, truth = self.t, self.keys[key]
        expires_at = self.expires_after(seconds)
        try:
            if value is None:
                ack = self.run(t.delete(key, durability=durability, timeout=TIMEOUT, **condition))
            else:
                timeout = SOON if expires_at == NEVER else TIMEOUT
                put = t.put(key, value, durability=durability, expires_at=expires_at, timeout=timeout, **condition)
                ack = self.run(put)
        except ConditionFailed:
            assert condition
            return False
        except MilenaError:
            truth.may_be(value, expires_at)
            return False
        before = truth.all
        truth.acknowledged(Written(value, expires_at), ack.durability)
        if (condition or seconds is not None) and self.foreign:
            # S3 may hold what the condition does not allow to be overwritten. And a write that comes to its end
            # before its upload deletes no foreign value, also none that a write in between was to replace.
            truth.since += [*before, *truth.foreign]
        return True

    @rule(key=KEYS, durability=CLASSES)
    def put(self, key: str, durability: str) -> None:
        self.write(key, self.value(), durability)

    @rule(key=KEYS, durability=CLASSES, seconds=LIFETIMES)
    def put_what_expires(self, key: str, durability: str, seconds: float) -> None:
        self.write(key, self.value(), durability, seconds)

    @rule(key=KEYS, durability=CLASSES, seconds=LIFETIMES, again=st.booleans())
    def put_the_same_bytes_to_end_at_another_time(
        self, key: str, durability: str, seconds: float, again: bool
    ) -> None:
        value = self.keys[key].kept.value
        if value is not None:
            self.write(key, value, durability, seconds)
            if again:
                self.write(key, value, durability)

    @rule(
        key=KEYS, durability=CLASSES, seconds=st.none() | LIFETIMES, what=st.sampled_from(["end", "put", "delete"])
    )
    def modify(self, key: str, durability: Any, seconds: float | None, what: str) -> None:
        """Change the end alone, or write anew and keep the end, or delete; what is not there stays so."""
        t, truth = self.t, self.keys[key]
        new = self.value()
        decided: list[Written] = []

        def decide(entry: Entry) -> NewValue | Otherwise:
            assert entry.value in truth.allowed, (key, entry.value)
            if entry.value is None:
                return KEEP
            if what == "delete":
                decided.append(Written(None))
                return DELETE
            keep = NewValue(new, entry.expires_at)
            decision = keep if what == "put" else NewValue(entry.value, self.expires_after(seconds))
            decided.append(Written(decision.value, decision.expires_at))
            return decision

        before = truth.all
        failing = t.store.failing
        try:
            ack = self.run(t.modify(key, decide, durability=durability, timeout=TIMEOUT)).ack
        except MilenaError:
            # A journal that was full stays so until its next probe; another writer may be in conflict.
            assert failing or t.disk.capacity is not None or t.journal.full or self.foreign
            truth.since += decided
            return
        if ack is not None:
            truth.acknowledged(decided[-1], ack.durability)
            if self.foreign:
                truth.since += [*before, *truth.foreign]  # as with any condition, and any end

    @rule(key=KEYS, durability=CLASSES)
    def delete(self, key: str, durability: str) -> None:
        self.write(key, None, durability)

    @rule(key=KEYS, durability=CLASSES)
    def put_over_what_is_known(self, key: str, durability: str) -> None:
        truth = self.keys[key]
        known = truth.kept.at(s3_time(self.t.clock))
        condition: dict[str, Any] = {"if_none_match": "*"} if known is None else {"if_match": etag_of(known)}
        certain = truth.certain and not self.t.store.failing and not self.foreign
        made = self.write(key, self.value(), durability, **condition)
        assert made or not certain, "there was no other writer"

    @rule(key=KEYS, durability=CLASSES)
    def put_over_what_is_not_there(self, key: str, durability: str) -> None:
        assert not self.write(key, self.value(), durability, if_match=etag_of(b"never written"))

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        truth = self.keys[key]
        failing = self.t.store.failing
        try:
            reply = self.run(self.t.get(key))
        except MilenaError:
            assert failing
            return
        assert reply.entry.value in truth.allowed, (key, reply)

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.t.clock.advance(seconds))

    @rule()
    def entries_expire(self) -> None:
        self.run(self.t.clock.advance(FRESHNESS.ttl + FRESHNESS.grace + FRESHNESS.keep))

    @rule(after_effect=st.booleans(), fault=st.sampled_from(PASSING), times=st.integers(1, 3))
    def s3_fails_some_requests(self, after_effect: bool, fault: Fault, times: int) -> None:
        self.t.store.fail(fault, times=times, after_effect=after_effect and fault.ambiguous)

    @rule(fault=st.sampled_from([Fault.CONNECT, Fault.TIMEOUT, Fault.SERVER]))
    def s3_goes(self, fault: Fault) -> None:
        self.t.store.down = fault

    @rule()
    def s3_comes(self) -> None:
        self.t.store.down = None

    @rule(seconds=st.sampled_from([0.0, 0.0, 30 * 86400.0, 7200.0, -86400.0]))
    def clock_is_set(self, seconds: float) -> None:
        """Right, or wrong by so much: nothing may depend on it."""
        self.t.clock.set_wall(s3_time(self.t.clock) + seconds)

    @rule(key=KEYS, ahead=st.sampled_from([-(10**9), 10**9]))
    def another_cluster_writes(self, key: str, ahead: int) -> None:
        """A foreign write like any other, whatever its version is."""
        entry = self.t.dirty.get(self.t.object(key).cache_key)
        if entry is not None and entry.belief.owned_since == UNCONFIRMED:
            return
        self.foreign = True
        value, ref, versions = self.value(), Ref(BUCKET, key), self.t.journal.versions
        version = Version(versions.epoch + ahead, versions.seq + ahead)
        self.t.store.objects[ref] = WithMetadata(value, stamp(version, ref, OTHER_LINEAGE))
        self.keys[key].foreign_write(value)

    @rule(key=KEYS, delete=st.booleans())
    def foreign_write(self, key: str, delete: bool) -> None:
        entry = self.t.dirty.get(self.t.object(key).cache_key)
        if entry is not None and entry.belief.owned_since == UNCONFIRMED:
            return  # it may have been overtaken, which only S3's object could return
        self.foreign = True
        value = None if delete else self.value()
        self.t.in_s3(key, value)
        self.keys[key].foreign_write(value)

    @rule(key=KEYS, first=CLASSES, second=CLASSES)
    def two_at_once(self, key: str, first: Any, second: Any) -> None:
        """Both are acknowledged or not; then the later of them is in force, in either order."""
        values = [self.value(), self.value()]
        truth = self.keys[key]

        async def both() -> list[Any]:
            return await asyncio.gather(
                *(
                    self.t.put(key, value, durability=durability)
                    for value, durability in zip(values, (first, second), strict=True)
                ),
                return_exceptions=True,
            )

        before = truth.all
        acks = self.run(both())
        kept = [v for v, ack in zip(values, acks, strict=True) if getattr(ack, "durability", "memory") != "memory"]
        if kept:
            truth.kept, truth.since = Written(kept[-1]), [Written(v) for v in values if v != kept[-1]]
        else:
            truth.kept, truth.since = before[0], [*before[1:], *map(Written, values)]

    @rule()
    def disk_is_full(self) -> None:
        self.t.disk.capacity = 0

    @rule()
    def disk_has_room(self) -> None:
        self.t.disk.capacity = None

    @rule()
    def crash(self) -> None:
        self.before_a_crash()
        self.t = self.run(self.t.crash())
        self.t.disk.capacity = None
        self.t.journal.joined(LINEAGE)  # the ring is known at once

    def before_a_crash(self) -> None:
        """Records of what is in S3 already may come back; what a foreign writer made of it since is unknown."""
        if self.foreign:
            self.t.disk.capacity = None
            self.run(self.t.clock.advance(3))

    @rule(key=KEYS)
    def crash_while_writing(self, key: str) -> None:
        value = self.value()
        self.before_a_crash()

        async def overlap() -> None:
            self.t.disk.gate.clear()
            writer = asyncio.create_task(self.t.put(key, value))
            await run_ready_tasks()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self.t = await self.t.crash()
            self.t.disk.capacity = None
            self.t.journal.joined(LINEAGE)

        self.run(overlap())
        self.keys[key].may_be(value)

    @rule()
    def flush(self) -> None:
        if self.t.store.down is None:
            self.run(self.flushed())

    async def flushed(self) -> None:
        waiting = asyncio.create_task(self.t.flush(timeout=1000))
        for _ in range(100):
            await self.t.clock.advance(10)
            if waiting.done():
                break
        assert (await waiting).remaining == 0

    @invariant()
    def the_accounts_are_right(self) -> None:
        if not hasattr(self, "t"):
            return
        dirty = self.t.dirty
        entries = dirty.values()
        assert dirty.bytes == sum(entry.cost for entry in entries)
        assert dirty.memory_bytes == sum(entry.in_memory for entry in entries)
        assert dirty.dead_letters == sum(bool(entry.dead) for entry in entries)
        assert dirty.pending_before(10**9) == dirty.waiting
        assert all(seq in self.t.disk.committed.records for entry in entries for seq in entry.records()), (
            "what is acknowledged is on the disk"
        )
        if not self.foreign:
            assert not any(self.t.uploader.conflicts.values()), "a false conflict"
            assert not dirty.dead_letters

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.t.store.recover()
        self.t.disk.capacity = None
        self.run(self.flushed())
        for key, truth in self.keys.items():
            assert self.t.s3_reports(key) in truth.allowed, (key, self.t.s3_has(key), truth.allowed)
            assert self.run(self.t.another().outcome(key))[1] in truth.allowed
        assert self.t.dirty.waiting == 0
        self.run(self.t.journal.sync_barrier())
        kept = {seq for entry in self.t.dirty.values() for seq in entry.records()}
        assert set(self.t.disk.committed.records) == kept, "no record is left behind"
        self.run(self.t.stop())
        self.loop.close()


TestWrites = pytest.mark.timeout(300)(WriteMachine.TestCase)
TestWrites.settings = settings(
    max_examples=400, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
