"""A listing shows nothing whose delete was acknowledged before it began, however the upload falls."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Fault, Page
from milena_cache.writeback import recent_uploads
from milena_cache.writeback.recent_uploads import RecentUploads
from milena_common.api.durability import Durability
from milena_common.api.errors import OriginUnavailable
from tests.cache.rig import BUCKET, NodeUnderTest
from tests.support.fake_clock import settle


async def started(**options: object) -> NodeUnderTest:
    t = NodeUnderTest(**{"mode": "back", **options})  # type: ignore[arg-type]
    await t.start()
    return t


async def listed(t: NodeUnderTest, bucket: str = "") -> list[str]:
    page = await t.node.list(bucket, b"", "", 1000, 5.0)
    return [info.key for info in page.objects]


class ListsThenWaits:
    """S3 has made its page, and its answer does not arrive before `gate` is set."""

    def __init__(self, t: NodeUnderTest) -> None:
        self.gate, self.looked = asyncio.Event(), asyncio.Event()
        self._list = t.store.list
        t.store.list = self.list  # type: ignore[method-assign]

    async def list(self, bucket: str, prefix: str, cursor: str, limit: int) -> Page:
        page = await self._list(bucket, prefix, cursor, limit)
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


@pytest.mark.parametrize("durability", ["back", "memory", "through"])
@pytest.mark.parametrize("before", [True, False])
async def test_a_delete_that_is_uploaded_while_s3_is_asked_is_not_listed(
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


async def test_a_delete_from_before_a_start_hides_nothing_until_s3_was_asked() -> None:
    t = await started()
    t.in_s3("a", b"v")
    t.store.down = Fault.CONNECT
    await t.delete("a")
    t = await t.crash()
    t.store.down = None
    t.store.refuse = lambda operation, ref: None if operation == "list" else Fault.SERVER
    assert await listed(t) == ["a"], "another node may have written it meanwhile"
    await t.stop()


async def test_more_uploads_than_are_noted_make_s3_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
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
    await settle()
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
