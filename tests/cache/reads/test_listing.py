"""A listing shows nothing whose delete was acknowledged before it began, however the upload falls."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Fault, Page
from milena_cache.reads.listing import COMPARED_AT_ONCE
from milena_cache.writeback import recent_uploads
from milena_cache.writeback.recent_uploads import RecentUploads
from milena_common.api.durability import Durability
from milena_common.api.errors import InvalidRequest, OriginUnavailable
from tests.cache.node_under_test import BUCKET, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks


async def started(**options: object) -> NodeUnderTest:
    t = NodeUnderTest(**{"mode": "back", **options})  # type: ignore[arg-type]
    await t.start()
    return t


async def levels(t: NodeUnderTest, prefix: bytes = b"", limit: int = 1000) -> list[str]:
    """One level of the listing, all pages of it, common prefixes marked."""
    found: list[str] = []
    cursor = ""
    while True:
        page = await t.node.list("", prefix, cursor, limit, 5.0, b"/")
        assert len(page.objects) + len(page.prefixes) <= limit
        found += sorted([*(info.key for info in page.objects), *(f"{each} PRE" for each in page.prefixes)])
        cursor = page.cursor
        if not cursor:
            return found


async def listed(t: NodeUnderTest, bucket: str = "") -> list[str]:
    page = await t.node.list(bucket, b"", "", 1000, 5.0)
    return [info.key for info in page.objects]


class ListsThenWaits:
    """S3 has made its page, and its reply does not arrive before `gate` is set."""

    def __init__(self, t: NodeUnderTest) -> None:
        self.gate, self.looked = asyncio.Event(), asyncio.Event()
        self._list = t.store.list
        t.store.list = self.list  # type: ignore[method-assign]

    async def list(
        self, bucket: str, prefix: str, cursor: str, limit: int, delimiter: str = "", after: str = ""
    ) -> Page:
        page = await self._list(bucket, prefix, cursor, limit, delimiter, after)
        self.looked.set()
        await self.gate.wait()
        return page


async def test_a_dirty_delete_is_not_listed() -> None:
    t = await started()
    t.in_s3("a", b"v")
    t.in_s3("b", b"v")
    await t.delete("a")
    assert await listed(t) == ["b"]
    await t.stop()


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_a_dirty_put_is_listed_and_makes_its_common_prefix_appear(limit: int) -> None:
    t = await started(delay=1000.0, buckets=Buckets(BUCKET, "team/"))
    for key in ("team/a", "team/d/1", "elsewhere"):
        t.in_s3(key, b"v")
    for key in ("a", "b", "c/1", "c/2/3", "d/2", "e", "z/1"):
        await t.put(key, b"12345")
    assert await levels(t, limit=limit) == ["a", "b", "c/ PRE", "d/ PRE", "e", "z/ PRE"]
    assert await levels(t, b"c/", limit=limit) == ["c/1", "c/2/ PRE"]
    assert await levels(t, b"none", limit=limit) == []
    await t.flush()
    assert await levels(t, limit=limit) == ["a", "b", "c/ PRE", "d/ PRE", "e", "z/ PRE"]
    await t.stop()


async def test_more_dirty_puts_than_are_looked_at_in_one_step_are_listed_page_by_page() -> None:
    t = await started(mode="memory", delay=1000.0, dirty_max_bytes=10**8, dirty_memory_bytes=10**8)
    number = 2 * COMPARED_AT_ONCE + 10
    for each in range(number):
        await t.put(f"{each * 7919 % number:05}", b"v")
    t.in_s3("00003x", b"v")
    found: list[str] = []
    cursor = ""
    while True:
        page = await t.node.list("", b"", cursor, 1000, 5.0)
        assert len(page.objects) <= 1000
        found += [info.key for info in page.objects]
        cursor = page.cursor
        if not cursor:
            break
    assert found == sorted([*(f"{each:05}" for each in range(number)), "00003x"])
    await t.stop()


async def test_an_object_is_listed_with_the_size_that_a_read_finds() -> None:
    t = await started(delay=1000.0)
    t.in_s3("a", b"1")
    await t.put("a", b"12345")
    await t.put("b", b"123")
    page = await t.node.list("", b"", "", 10, 5.0)
    assert [(info.key, info.size) for info in page.objects] == [("a", 5), ("b", 3)]
    assert all(abs(info.last_modified - t.clock.wall()) < 1 for info in page.objects)
    await t.stop()


async def test_the_common_prefix_of_a_key_that_was_deleted_stays_until_s3_has_the_delete() -> None:
    t = await started(delay=1000.0)
    for key in ("a/1", "b/1", "b/2"):
        t.in_s3(key, b"v")
    for key in ("a/1", "b/1"):
        await t.delete(key)
    assert await levels(t) == ["a/ PRE", "b/ PRE"]
    assert await levels(t, b"a/") == []
    await t.flush()
    assert await levels(t) == ["b/ PRE"]
    await t.stop()


@pytest.mark.parametrize(("delimiter", "what"), [(b"\xff", "is not UTF-8"), (b"x" * 1025, "1024"), (b"\0", "NUL")])
async def test_a_delimiter_that_no_key_can_have_is_rejected_by_its_name(delimiter: bytes, what: str) -> None:
    t = NodeUnderTest()
    with pytest.raises(InvalidRequest, match=f"delimiter: .*{what}"):
        await t.node.list("", b"", "", 10, 1, delimiter)


@pytest.mark.parametrize("durability", ["back", "memory", "through"])
@pytest.mark.parametrize("before", [True, False])
async def test_a_delete_that_is_uploaded_while_s3_is_queried_is_not_listed(
    before: bool, durability: Durability
) -> None:
    t = await started()
    t.in_s3("a", b"v")
    t.in_s3("b", b"v")
    s3 = ListsThenWaits(t)
    if before and durability != "through":
        await t.delete("a", durability=durability)
    listing = asyncio.create_task(listed(t))
    await s3.looked.wait()
    await t.delete("a", durability=durability)
    await t.flush()
    assert len(t.dirty) == 0
    s3.gate.set()
    assert await listing == ["b"]
    assert len(t.node.recent) == 0, "nothing is kept when no listing is in flight"
    await t.stop()


async def test_an_object_that_comes_to_its_end_is_not_listed_with_its_upload() -> None:
    t = await started()
    t.in_s3("a", b"before")
    await t.put("a", b"v", expires_at=t.clock.wall() + 0.5)
    s3 = ListsThenWaits(t)
    listing = asyncio.create_task(listed(t))
    await s3.looked.wait()
    await t.clock.advance(2)
    assert len(t.dirty) == 0
    s3.gate.set()
    assert await listing == []
    await t.stop()


async def test_what_another_bucket_has_under_the_same_key_is_listed() -> None:
    t = await started(buckets=Buckets(BUCKET, "", frozenset(["other-bucket"])))
    t.in_s3("a", b"v")
    await t.delete("a")
    await t.put("s3-free", b"v", durability="through")
    await t.writes.put(t.buckets.resolve("other-bucket", b"a"), b"v", 5.0, durability="through")
    assert await listed(t, "other-bucket") == ["a"]
    assert await listed(t) == ["s3-free"]
    await t.stop()


async def test_a_delete_from_before_a_start_hides_nothing_until_s3_was_queried() -> None:
    t = await started()
    t.in_s3("a", b"v")
    t.store.down = Fault.CONNECT
    await t.delete("a")
    t = await t.crash()
    t.store.down = None
    t.store.reject = lambda operation, ref: None if operation == "list" else Fault.SERVER
    assert await listed(t) == ["a"], "another node may have written it meanwhile"
    await t.stop()


async def test_more_uploads_than_are_recorded_have_s3_queried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_uploads, "MAX_KEYS", 2)
    t = await started()
    for key in "abcd":
        t.in_s3(key, b"v")
    s3 = ListsThenWaits(t)
    listing = asyncio.create_task(listed(t))
    await s3.looked.wait()
    for key in "abc":
        await t.delete(key, durability="through")
    s3.gate.set()
    assert await listing == ["d"]
    assert t.store.count("list") == 2
    await t.stop()


async def test_a_listing_that_fails_leaves_nothing_behind() -> None:
    t = await started()
    t.store.down = Fault.SERVER
    with pytest.raises(OriginUnavailable):
        await listed(t)
    t.store.down = None
    await t.delete("a", durability="through")
    await run_ready_tasks()
    assert len(t.node.recent) == 0
    await t.stop()


steps = st.lists(st.tuples(st.sampled_from(["list", "end", "put", "delete"]), st.integers(0, 3)), max_size=60)


@given(steps)
def test_each_listing_knows_the_uploads_since_its_own_beginning(course: list[tuple[str, int]]) -> None:
    recent = RecentUploads()
    running = []
    for what, number in course:
        key = b"%d" % number
        if what == "list":
            context = recent.listing()
            running.append((context, context.__enter__(), {}))
        elif what == "end" and running:
            context, listing, known = running.pop(number % len(running))
            for each in range(4):
                assert listing.state(b"%d" % each) == known.get(b"%d" % each)
            context.__exit__(None, None, None)
        elif what in ("put", "delete"):
            recent.add(key, exists=what == "put")
            for _, _, known in running:
                known[key] = what == "put"
    if not running:
        assert len(recent) == 0
