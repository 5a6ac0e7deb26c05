"""What the probe finds out about a store, and what it leaves there."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from milena_cache.objects.object_store import Fault, Info, Page, Ref
from milena_cache.origin.bucket_check import BucketCheck
from milena_cache.origin.conditions import Capability, Conditions, ConditionsMode, State
from milena_cache.origin.requests import Origin
from milena_cache.origin.store_probe import StoreProbe
from tests.support.fake_clock import FakeClock
from tests.support.s3.memory_store import MemoryStore, WithMetadata

BUCKET = "bucket"
CREATE, REPLACE, DELETE = Capability.CREATE, Capability.REPLACE, Capability.DELETE


class Harness:
    def __init__(self, store: MemoryStore, mode: ConditionsMode = "auto") -> None:
        self.store = store
        self.clock = FakeClock()
        self.conditions = Conditions(mode)
        self.origin = Origin(
            store,
            self.clock,
            lambda: 0.5,
            fresh=store,
            retries=0,
            concurrency=8,
            place_timeout=5,
            hedge_after=5,
        )
        self.probe = StoreProbe(self.origin, BUCKET, "pre/", self.conditions, self.clock, random.Random(1).random)

    async def states(self) -> dict[Capability, State]:
        await self.probe.run()
        assert self.store.objects == {}
        return {capability: self.conditions.state(capability) for capability in Capability}


async def test_a_store_that_does_as_s3_does_works_and_is_left_empty() -> None:
    harness = Harness(MemoryStore(BUCKET))
    assert set((await harness.states()).values()) == {State.WORKS}
    assert harness.conditions.degraded() == []
    written = {key for operation, key in harness.store.calls if operation == "put"}
    assert all(key.startswith("pre/.milena-probe/") for key in written)
    assert len({key.split("/")[2] for key in written}) == 1


@pytest.mark.parametrize("fault", [State.IGNORED, State.UNSUPPORTED, State.NEVER_HOLDS])
@pytest.mark.parametrize(
    ("operation", "capability"), [("create", CREATE), ("replace", REPLACE), ("delete", DELETE)]
)
async def test_each_condition_is_found_as_it_is(operation: str, capability: Capability, fault: State) -> None:
    store = MemoryStore(BUCKET)
    {State.IGNORED: store.ignoring, State.UNSUPPORTED: store.unsupporting, State.NEVER_HOLDS: store.denying}[
        fault
    ].add(operation)
    states = await Harness(store).states()
    assert states[capability] is fault
    assert states[Capability.LISTING] is State.WORKS
    # A multipart upload is a create here.
    others = set(Capability) - {capability} - ({Capability.MULTIPART} if operation == "create" else set())
    assert {states[each] for each in others} == {State.WORKS}


class Forgetful(MemoryStore):
    """Loses metadata."""

    async def head(self, ref: Ref) -> Info | None:
        value = self.objects.get(ref)
        if value is not None:
            self.objects[ref] = WithMetadata(value, {})
        return await super().head(ref)


async def test_metadata_that_does_not_come_back_is_broken() -> None:
    states = await Harness(Forgetful(BUCKET)).states()
    assert (states[Capability.METADATA], states[Capability.COPY]) == (State.BROKEN, State.BROKEN)


class Utf16(MemoryStore):
    """Lists in the order of UTF-16, as some stores do."""

    async def list(
        self, bucket: str, prefix: str, cursor: str, limit: int, delimiter: str = "", after: str = ""
    ) -> Page:
        page = await super().list(bucket, prefix, "", 1000)
        found = sorted(page.objects, key=lambda info: info.key.encode("utf-16-be"))
        start = int(cursor or 0)
        return Page(found[start : start + limit], str(start + limit) if len(found) > start + limit else "")


class OtherETags(MemoryStore):
    """Has ETags that are no MD5s, as with SSE-KMS: their digits are reversed."""

    def __init__(self, *buckets: str) -> None:
        super().__init__(*buckets)
        self.spell = lambda etag: etag[::-1]

    async def put(self, ref: Ref, value: bytes, *, if_match: str = "", **options: Any) -> str:
        return self.spell(await super().put(ref, value, if_match=self.spell(if_match), **options))

    async def delete(self, ref: Ref, *, if_match: str = "") -> None:
        await super().delete(ref, if_match=self.spell(if_match))


async def test_etags_that_are_no_md5s_are_found_and_are_no_fault() -> None:
    harness = Harness(OtherETags(BUCKET))
    assert harness.conditions.foretells_etags
    states = await harness.states()
    assert states.pop(Capability.ETAG) is State.BROKEN
    assert set(states.values()) == {State.WORKS}
    assert not harness.conditions.foretells_etags
    assert harness.conditions.degraded() == []


async def test_another_order_of_listings_is_broken() -> None:
    assert (await Harness(Utf16(BUCKET)).states())[Capability.LISTING] is State.BROKEN


async def test_a_bucket_that_takes_no_writes_leaves_all_unknown_and_is_not_probed_again() -> None:
    store = MemoryStore(BUCKET)
    store.reject = lambda operation, _: Fault.DENIED if operation in ("put", "copy", "delete") else None
    harness = Harness(store)
    assert await harness.probe.run()
    assert {harness.conditions.state(each) for each in Capability} == {State.UNKNOWN}
    assert harness.conditions.not_ready() == []
    assert all("unknown" in reason and "denied" in reason for reason in harness.conditions.degraded())


async def test_off_probes_no_conditions() -> None:
    states = await Harness(MemoryStore(BUCKET), "off").states()
    assert {each for each, state in states.items() if state is State.UNKNOWN} == {
        CREATE, REPLACE, DELETE, Capability.MULTIPART,
    }  # fmt: skip


async def test_a_node_is_ready_after_one_try_and_a_probe_that_failed_is_repeated() -> None:
    store = MemoryStore(BUCKET)
    harness = Harness(store)
    outcomes: list[tuple[bool, str]] = []
    watch = BucketCheck(harness.origin, BUCKET, harness.clock, lambda: 0.5)

    async def probe() -> bool:
        done = await harness.probe.run()
        outcomes.append((done, watch.problem))
        store.reject = None
        return done

    watch = BucketCheck(harness.origin, BUCKET, harness.clock, lambda: 0.5, [probe])
    store.reject = lambda operation, _: Fault.SERVER if operation == "put" else None
    running = asyncio.create_task(watch.run())
    await harness.clock.advance(30)
    await running
    assert [done for done, _ in outcomes] == [False, True]
    assert [bool(problem) for _, problem in outcomes] == [True, False]
    assert harness.conditions.trusts(REPLACE)


async def test_a_probe_that_is_repeated_tries_only_what_is_not_known_yet() -> None:
    store = MemoryStore(BUCKET)
    harness = Harness(store)
    store.reject = lambda operation, ref: Fault.SERVER if ref.key.endswith("/parts") else None
    assert not await harness.probe.run()
    assert {each for each in Capability if harness.conditions.state(each) is State.UNKNOWN} == {
        Capability.MULTIPART
    }
    for _ in range(2):
        store.calls.clear()
        assert not await harness.probe.run()
        assert {key.rpartition("/")[2] for operation, key in store.calls if operation == "put"} == {"parts"}
        assert harness.conditions.trusts(REPLACE)
    store.reject = None
    assert await harness.probe.run()
    assert {harness.conditions.state(each) for each in Capability} == {State.WORKS}


async def test_what_does_not_work_is_logged_once_although_another_probe_is_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore(BUCKET)
    store.ignoring.add("replace")
    store.reject = lambda operation, ref: Fault.SERVER if ref.key.endswith("/parts") else None
    harness = Harness(store)
    for _ in range(3):
        assert not await harness.probe.run()
    logged = [record.getMessage() for record in caplog.records if "put_if_match" in record.getMessage()]
    assert len(logged) == 1
    assert "the probe failed" not in caplog.text, "what could not be probed is in /readyz"


async def test_pauses_between_probes_grow_to_minutes() -> None:
    store = MemoryStore(BUCKET)
    harness = Harness(store)
    probes = 0

    async def probe() -> bool:
        nonlocal probes
        probes += 1
        return False

    watching = asyncio.create_task(BucketCheck(harness.origin, BUCKET, harness.clock, lambda: 0.99, [probe]).run())
    await harness.clock.advance(600)
    assert 10 <= probes <= 12
    await harness.clock.advance(3600)
    assert probes <= 12 + 8
    watching.cancel()


class Together(MemoryStore):
    """Does no put before one of each trial that begins with one was sent."""

    def __init__(self) -> None:
        super().__init__(BUCKET)
        self.trials: set[str] = set()
        self.all_sent = asyncio.Event()

    async def put(self, ref: Ref, value: bytes, **options: Any) -> str:
        self.trials.add(ref.key.split("/")[3])
        if self.trials >= {"create", "replace", "delete", "parts", "metadata", "copy", "listed"}:
            self.all_sent.set()
        await self.all_sent.wait()
        return await super().put(ref, value, **options)


async def test_all_capabilities_are_probed_at_the_same_time() -> None:
    assert set((await Harness(Together()).states()).values()) == {State.WORKS}
