"""Questions about objects without their values: one HEAD for all callers, whose result is remembered."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.memory.existence import MAX_KNOWN, Existence, Known
from milena_cache.memory.freshness import Freshness
from milena_cache.objects.entry import entry_of
from milena_cache.objects.object_store import Fault
from milena_common.api.errors import OriginUnavailable
from tests.cache.node_under_test import FRESHNESS, LATE, NodeUnderTest
from tests.support.fake_clock import FakeClock, run_ready_tasks

NOW = FakeClock().now()


async def exists(t: NodeUnderTest, key: str = "k", owned_since: int = 0) -> tuple[str, int | None]:
    """The outcome, and the size in bytes; None if the object does not exist."""
    reply, size = await t.node.exists(t.object(key), 5, owned_since)
    return reply.outcome, None if reply.entry.value is None else size


@pytest.mark.parametrize("size", [5, None])
async def test_callers_that_check_one_cold_key_share_one_head(size: int | None) -> None:
    t = NodeUnderTest()
    t.in_s3("k", None if size is None else b"x" * size)
    t.store.gate.clear()
    callers = [asyncio.create_task(exists(t)) for _ in range(60)]
    await t.store.arrived("head")
    await run_ready_tasks()
    t.store.gate.set()
    outcomes = await asyncio.gather(*callers)
    assert t.store.count("head") == 1
    assert sorted(outcomes, key=str) == [("coalesced", size)] * 59 + [("miss", size)]


@pytest.mark.parametrize(
    ("known", "entry", "same"),
    [
        ((5, '"a"', 0.0), (b"value", 'W/"a"', 0.0), True),
        ((5, '"a"', 0.0), (b"value", '"b"', 0.0), False),
        ((5, '"a"', 7.0), (b"value", '"a"', 0.0), False),
        ((5, "", 0.0), (b"value", "", 0.0), True),
        ((6, "", 0.0), (b"value", "", 0.0), False),
        ((5, "", 0.0), (b"value", '"a"', 0.0), False),
        ((None, "", 0.0), (b"value", '"a"', 0.0), False),
        ((5, '"a"', 0.0), (None, "", 0.0), False),
        ((None, "", 0.0), (None, "", 0.0), True),
    ],
)
def test_a_head_and_an_entry_are_of_one_version_by_etag_expiry_and_size(
    known: tuple[int | None, str, float], entry: tuple[bytes | None, str, float], same: bool
) -> None:
    size, etag, expires_at = known
    value, its_etag, its_end = entry
    head = Known(size, etag, expires_at, NOW, 0)
    assert head.is_same(entry_of(value, its_etag, NOW, 0, its_end)) is same


async def test_that_an_object_is_missing_is_remembered_for_the_negative_ttl_by_gets_too() -> None:
    t = NodeUnderTest()
    assert await exists(t) == ("miss", None)
    t.clock.tick(FRESHNESS.negative_ttl - 0.1)
    for _ in range(20):
        assert await exists(t) == ("negative_hit", None)
    assert await t.outcome("k") == ("negative_hit", None)
    assert t.store.calls == [("head", "k")]
    t.clock.tick(0.2)
    t.in_s3("k", b"v")
    assert await exists(t) == ("miss", 1)


async def test_that_an_object_exists_is_remembered_as_long_as_a_copy_would_be_fresh() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"12345")
    assert await exists(t) == ("miss", 5)
    t.in_s3("k", b"1234567")
    t.clock.tick(FRESHNESS.ttl - 0.1)
    assert await exists(t) == ("hit", 5)
    t.clock.tick(0.1)
    assert await exists(t) == ("miss", 7)
    assert t.store.count("head") == 2


async def test_a_get_never_takes_what_a_head_said_for_a_value() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"12345")
    await exists(t)
    assert await t.outcome("k") == ("miss", b"12345")
    assert t.store.count("get") == 1


async def test_without_a_ttl_nothing_is_remembered() -> None:
    t = NodeUnderTest(freshness=Freshness(0, 0, 0, 0, 0, negative_ttl=0))
    for key, size in (("k", 1), ("absent", None)):
        t.in_s3(key, None if size is None else b"v")
        for _ in range(2):
            assert await exists(t, key) == ("miss", size)
    assert t.store.count("head") == 4


async def test_what_a_value_said_later_is_not_forgotten_for_what_a_head_said_before() -> None:
    t = NodeUnderTest(max_entries=1)
    t.in_s3("k", b"12345")
    await exists(t)
    t.in_s3("k", b"1234567")
    await t.get("k")
    t.in_s3("other", b"v")
    await t.get("other")  # takes the place of the copy
    assert await exists(t) == ("miss", 7)


@pytest.mark.parametrize("durability", ["through", "back", "memory"])
async def test_a_write_ends_what_a_head_said(durability: str) -> None:
    t = NodeUnderTest()
    await t.start()
    t.in_s3("k", b"12345")
    await exists(t)
    await t.put("k", b"v", durability=durability)  # type: ignore[arg-type]
    assert (await exists(t))[1] == 1
    await t.flush()
    assert (await exists(t))[1] == 1
    await t.delete("k", durability=durability)  # type: ignore[arg-type]
    assert (await exists(t))[1] is None
    await t.flush()
    assert (await exists(t))[1] is None
    await t.stop()


async def test_an_invalidation_ends_what_a_head_said() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"12345")
    await exists(t)
    t.in_s3("k", None)
    t.node.invalidate_entry(t.object("k"))
    assert await exists(t) == ("miss", None)


@pytest.mark.parametrize("before", [b"12345", None])
async def test_a_head_that_began_before_a_write_is_neither_joined_nor_remembered(before: bytes | None) -> None:
    t = NodeUnderTest()
    t.in_s3("k", before)
    t.store.gate.clear()
    early = asyncio.create_task(exists(t))
    await t.store.arrived("head")
    writing = asyncio.create_task(t.put("k", b"v"))
    await run_ready_tasks()
    t.store.gate.set()
    await writing
    await early
    assert (await exists(t))[1] == 1
    t.node.memory.remove(b"k")
    assert await exists(t) == ("miss", 1), "S3 is asked: what the head said was not kept"


async def test_the_result_of_an_earlier_ownership_is_not_returned_in_a_later_one() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"12345")
    await exists(t, owned_since=1)
    t.in_s3("k", b"v")
    assert await exists(t, owned_since=1) == ("hit", 5)
    assert await exists(t, owned_since=2) == ("miss", 1)


async def test_an_object_that_comes_to_its_end_exists_no_more() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"12345", t.clock.wall() + 10)
    assert await exists(t) == ("miss", 5)
    assert await exists(t) == ("hit", 5)
    t.clock.tick(10)
    assert (await exists(t))[1] is None


async def test_a_failure_reaches_all_waiters_and_is_not_remembered() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    t.store.gate.clear()
    t.store.fail(Fault.SERVER)
    callers = [asyncio.create_task(exists(t)) for _ in range(3)]
    await t.store.arrived("head")
    await run_ready_tasks()
    t.store.gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, OriginUnavailable) for result in results)
    assert t.node.reads.outcomes["error"] == 3
    assert await exists(t) == ("miss", 1)


async def test_one_lost_response_does_not_make_the_existence_of_a_key_unknown_for_later_callers() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    t.store.gate.clear()
    first = asyncio.create_task(exists(t))
    await t.store.arrived("head")
    t.clock.tick(LATE)
    t.store.lose_waiting()
    assert await exists(t) == ("coalesced", 1)
    assert await first == ("miss", 1)


async def test_the_result_of_a_head_while_a_get_is_in_flight_is_returned_and_not_kept() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"12345")
    t.store.read_gate.clear()
    reading = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get")
    await run_ready_tasks()
    t.in_s3("k", None)
    assert await exists(t) == ("miss", None)
    t.store.read_gate.set()
    assert await reading == ("miss", b"12345")
    assert await t.outcome("k") == ("hit", b"12345")


def test_what_is_remembered_is_bounded() -> None:
    existence = Existence(FRESHNESS, FakeClock(), LATE)
    for number in range(MAX_KNOWN + 10):
        existence.keep(b"%d" % number, Known(1, "", 0.0, NOW, 0))
        existence.get(b"0", 0)
    assert len(existence) == MAX_KNOWN
    assert existence.get(b"0", 0) is not None, "what is used stays"
    assert existence.get(b"1", 0) is None
