"""A page of a listing has no key whose delete any node acknowledged before the listing began."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_cache.membership.ownership import Ownership
from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Page
from milena_cache.objects.unlisted import Names, Unlisted
from milena_cache.reads import peer_listings
from milena_cache.reads.cluster_listing import PAUSE_SECONDS, ClusterListings
from milena_cache.reads.listing import names_of
from milena_cache.reads.peer_listings import MAX_SECONDS, PeerListings
from milena_cache.writeback import recent_uploads
from milena_common.api.durability import Durability
from milena_common.api.errors import InvalidRequest, MilenaError, NodeLost, Overloaded, Unavailable
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS, slot_of
from tests.cache.node_under_test import BUCKET, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks

NODES = ("127.0.0.1:1001", "127.0.0.1:2001", "127.0.0.1:3001")
KEYS = [f"k{number}" for number in range(12)]


def owner_of(slot: int, owners: Sequence[str] = NODES) -> str:
    return owners[slot * len(owners) // SLOTS]


def ring(*owners: str, epoch: int = 1) -> SlotMap:
    """An equal share of the slots for each, ascending; the RESP address of a node is not its gRPC address."""
    nodes = tuple(MapNode(owner, f"resp-{owner}", owner) for owner in owners)
    bounds = [-(-SLOTS * number // len(nodes)) for number in range(len(nodes) + 1)]
    ranges = (MapRange(bounds[at], bounds[at + 1] - 1, node, epoch) for at, node in enumerate(nodes))
    return SlotMap(epoch, BUCKET, nodes, tuple(ranges))


class ClusterUnderTest:
    """Nodes in front of one S3 that ask each other without a network. `failing` are addresses and their errors."""

    def __init__(self, **options: object) -> None:
        first = NodeUnderTest(**{"mode": "back", **options})  # type: ignore[arg-type]
        self.clock, self.store = first.clock, first.store
        self.nodes = {address: first if not at else first.another() for at, address in enumerate(NODES)}
        self.ownership = {address: Ownership(address) for address in NODES}
        self.peers: dict[str, PeerListings] = {}
        self.failing: dict[str, MilenaError] = {}
        for address, t in self.nodes.items():
            self.ownership[address].update(ring(*NODES))
            self.peers[f"resp-{address}"] = PeerListings(
                t.dirty, t.parts.dirty_writes, t.node.recent, self.ownership[address], t.clock, t.node.listings
            )

    async def __aenter__(self) -> ClusterUnderTest:
        for t in self.nodes.values():
            await t.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for t in self.nodes.values():
            await t.stop()
        for each in self.peers.values():
            each.cancel()

    async def begin_listing(
        self, address: str, seconds: float, bucket: str, names: Names, timeout: float
    ) -> tuple[int, Unlisted]:
        if (error := self.failing.get(address)) is not None:
            raise error
        number = self.peers[address].begin_listing(seconds)
        return number, await self.peers[address].unlisted(bucket, names)

    async def end_listing(
        self, address: str, number: int, keys: Sequence[bytes], timeout: float
    ) -> Sequence[bytes] | None:
        assert timeout > 0
        return self.peers[address].end_listing(number, keys)

    def owner(self, key: str) -> NodeUnderTest:
        return self.nodes[self.owner_address(key)]

    def owner_address(self, key: str) -> str:
        return owner_of(slot_of(key.encode()))

    async def listed(self, at: str = NODES[0], bucket: str = "", timeout: float = 60.0) -> list[str]:
        return [info.key for info in (await self.page(at, bucket, timeout)).objects]

    async def page(
        self, at: str, bucket: str = "", timeout: float = 60.0, cursor: str = "", limit: int = 1000, by: bytes = b""
    ) -> Page:
        t = self.nodes[at]
        listings = ClusterListings(self.ownership[at], self, t.buckets, t.clock)
        return await listings.page(
            bucket,
            names_of(b"", cursor, limit, by),
            lambda left, others: t.node.list(bucket, b"", cursor, limit, left, by, others),
            timeout,
        )

    def in_s3(self, *keys: str) -> None:
        for key in keys:
            self.nodes[NODES[0]].in_s3(key, b"v")


class Gates:
    """Makes S3's listings wait before S3 looks and before the page arrives, each until it is let go on."""

    def __init__(self, cluster: ClusterUnderTest) -> None:
        self.waiting: list[asyncio.Event] = []
        self._list = cluster.store.list
        cluster.store.list = self.list  # type: ignore[method-assign]

    async def list(
        self, bucket: str, prefix: str, cursor: str, limit: int, delimiter: str = "", after: str = ""
    ) -> Page:
        await self._gate()
        page = await self._list(bucket, prefix, cursor, limit, delimiter, after)
        await self._gate()
        return page

    async def _gate(self) -> None:
        gate = asyncio.Event()
        self.waiting.append(gate)
        await gate.wait()

    async def open_next(self, at: int = 0) -> None:
        self.waiting.pop(at).set()
        await run_ready_tasks()


async def test_a_dirty_delete_of_any_node_is_not_listed_by_any_other() -> None:
    async with ClusterUnderTest() as cluster:
        cluster.in_s3(*KEYS)
        deleted = set(KEYS[::2])
        assert {cluster.owner_address(key) for key in deleted} == set(NODES)
        for key in deleted:
            await cluster.owner(key).delete(key)
        for at in NODES:
            assert await cluster.listed(at) == sorted(set(KEYS) - deleted)
        assert all(len(each) == 0 for each in cluster.peers.values())


@pytest.mark.parametrize("durability", ["back", "memory", "through"])
@pytest.mark.parametrize("looks", [0, 1])
async def test_a_delete_that_another_node_uploads_while_s3_is_queried_is_not_listed(
    looks: int, durability: Durability
) -> None:
    async with ClusterUnderTest() as cluster:
        cluster.in_s3(*KEYS)
        gates = Gates(cluster)
        others = [key for key in KEYS if cluster.owner_address(key) != NODES[0]]
        if durability != "through":
            for key in others:
                await cluster.owner(key).delete(key, durability=durability)
        listing = asyncio.create_task(cluster.listed())
        await run_ready_tasks()
        for _ in range(looks):
            await gates.open_next()
        for key in others:
            await cluster.owner(key).delete(key, durability=durability)
            await cluster.owner(key).flush()
        assert all(not t.dirty for t in cluster.nodes.values())
        while gates.waiting:
            await gates.open_next()
        assert await listing == [key for key in sorted(KEYS) if key not in others]
        assert all(len(t.node.recent) == 0 for t in cluster.nodes.values()), "noted only during listings"


async def test_a_dirty_put_of_any_node_is_listed_by_every_other() -> None:
    async with ClusterUnderTest() as cluster:
        cluster.in_s3(*KEYS[::3])
        for key in KEYS[1::3]:
            await cluster.owner(key).put(key, b"dirty")
        assert {cluster.owner_address(key) for key in KEYS[1::3]} == set(NODES)
        expected = sorted((*KEYS[::3], *KEYS[1::3]))
        for at in NODES:
            assert await cluster.listed(at) == expected
            names: list[str] = []
            cursor, pages = "", 0
            while cursor or not pages:
                page = await cluster.page(at, cursor=cursor, limit=2)
                names += [info.key for info in page.objects]
                cursor, pages = page.cursor, pages + 1
            assert names == expected, "each once, in pages of two names"
        key = KEYS[1]
        await cluster.owner(key).delete(key)
        assert key not in await cluster.listed(NODES[2])


@pytest.mark.parametrize("looks", [0, 1])
async def test_a_put_that_another_node_uploads_while_s3_is_queried_is_listed(looks: int) -> None:
    async with ClusterUnderTest() as cluster:
        gates = Gates(cluster)
        others = [key for key in KEYS if cluster.owner_address(key) != NODES[0]]
        for key in others:
            await cluster.owner(key).put(key, b"dirty")
        listing = asyncio.create_task(cluster.listed())
        await run_ready_tasks()
        for _ in range(looks):
            await gates.open_next()
        for t in cluster.nodes.values():
            await t.flush()
        while gates.waiting:
            await gates.open_next()
        assert await listing == sorted(others)


async def test_what_is_put_again_after_its_delete_is_listed() -> None:
    async with ClusterUnderTest() as cluster:
        cluster.in_s3(*KEYS)
        for key in KEYS:
            await cluster.owner(key).delete(key)
            await cluster.owner(key).put(key, b"new")
        assert await cluster.listed() == sorted(KEYS)


async def test_another_bucket_is_not_taken_for_the_default_one() -> None:
    async with ClusterUnderTest(buckets=Buckets(BUCKET, "", frozenset(["other-bucket"]))) as cluster:
        for key in KEYS:
            target = cluster.owner(key).buckets.resolve("other-bucket", key.encode())
            owner = cluster.nodes[owner_of(slot_of(target.cache_key))]
            await owner.writes.put(target, b"v", 5.0, durability="through")
            if key in KEYS[:6]:
                await owner.writes.delete(target, 5.0)
            await cluster.owner(key).put(key, b"v", durability="through")
            if key in KEYS[6:]:
                await cluster.owner(key).delete(key)
        assert await cluster.listed(bucket="other-bucket") == sorted(KEYS[6:])
        assert await cluster.listed() == sorted(KEYS[:6])


async def test_an_owner_that_cannot_be_reached_fails_the_listing_of_its_keys_and_is_named() -> None:
    async with ClusterUnderTest() as cluster:
        cluster.failing["resp-" + NODES[1]] = NodeLost("node 2 cannot be reached: refused")
        cluster.in_s3(*(key for key in KEYS if cluster.owner_address(key) != NODES[1]))
        with pytest.raises(Unavailable, match=r"resp-127.0.0.1:2001.*refused"):
            await cluster.listed()


async def test_a_node_of_an_earlier_release_does_not_fail_the_listing() -> None:
    async with ClusterUnderTest() as cluster:
        cluster.failing["resp-" + NODES[1]] = InvalidRequest("unknown command 'MILENA.LISTING'")
        cluster.in_s3(*KEYS)
        assert await cluster.listed() == sorted(KEYS)


async def test_a_node_without_a_ring_lists_what_it_knows() -> None:
    async with ClusterUnderTest() as cluster:
        cluster.ownership[NODES[0]] = Ownership(NODES[0])
        cluster.in_s3(*KEYS)
        for key in KEYS[:6]:
            await cluster.nodes[NODES[0]].delete(key)
        assert await cluster.listed() == sorted(KEYS[6:])


async def test_a_slot_that_moves_while_s3_is_queried_has_s3_queried_again() -> None:
    """Its new owner cannot say what the old one has deleted and uploaded meanwhile."""
    async with ClusterUnderTest() as cluster:
        cluster.in_s3(*KEYS)
        gates = Gates(cluster)
        moved = next(key for key in KEYS if cluster.owner_address(key) == NODES[1])
        await cluster.owner(moved).delete(moved)
        listing = asyncio.create_task(cluster.listed())
        await run_ready_tasks()
        await gates.open_next()  # S3 has looked
        await cluster.owner(moved).flush()
        for address in NODES:
            cluster.ownership[address].update(ring(NODES[0], NODES[2], epoch=2))
        await gates.open_next()
        await cluster.clock.advance(PAUSE_SECONDS)
        while gates.waiting:
            await gates.open_next()
        assert await listing == [key for key in sorted(KEYS) if key != moved]


async def test_a_ring_that_the_listing_node_does_not_have_yet_is_waited_for() -> None:
    async with ClusterUnderTest() as cluster:
        cluster.in_s3(*KEYS)
        for address in NODES[1:]:
            cluster.ownership[address].update(ring(*reversed(NODES), epoch=2))
        listing = asyncio.create_task(cluster.listed())
        await cluster.clock.advance(PAUSE_SECONDS * 3)
        assert not listing.done()
        cluster.ownership[NODES[0]].update(ring(*reversed(NODES), epoch=2))
        await cluster.clock.advance(PAUSE_SECONDS)
        assert await listing == sorted(KEYS)


async def test_rings_that_never_agree_end_with_an_error_at_the_deadline() -> None:
    async with ClusterUnderTest() as cluster:
        cluster.in_s3(*KEYS)
        cluster.ownership[NODES[1]].update(ring(NODES[1], NODES[2], NODES[0], epoch=2))
        listing = asyncio.create_task(cluster.listed(timeout=3.5 * PAUSE_SECONDS))
        await cluster.clock.advance(4 * PAUSE_SECONDS)
        with pytest.raises(Unavailable, match="owners of listed keys changed"):
            await listing


async def test_more_uploads_at_another_node_than_it_records_have_s3_queried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recent_uploads, "MAX_KEYS", 2)
    async with ClusterUnderTest() as cluster:
        cluster.in_s3(*KEYS)
        gates = Gates(cluster)
        theirs = [key for key in KEYS if cluster.owner_address(key) == NODES[1]]
        assert len(theirs) > 2
        listing = asyncio.create_task(cluster.listed())
        await run_ready_tasks()
        await gates.open_next()
        for key in theirs:
            await cluster.owner(key).delete(key, durability="through")
        await gates.open_next()
        await cluster.clock.advance(PAUSE_SECONDS)
        while gates.waiting:
            await gates.open_next()
        assert await listing == [key for key in sorted(KEYS) if key not in theirs]
        assert cluster.store.count("list") == 2


async def test_a_listing_whose_node_does_not_come_back_is_forgotten_when_its_time_is_over() -> None:
    async with ClusterUnderTest() as cluster:
        t, peers = cluster.nodes[NODES[1]], cluster.peers["resp-" + NODES[1]]
        numbers = [peers.begin_listing(2.0), peers.begin_listing(MAX_SECONDS * 100)]
        await t.delete("k", durability="through")
        assert (len(peers), len(t.node.recent)) == (2, 1)
        await cluster.clock.advance(2.0)
        assert len(peers) == 1
        assert peers.end_listing(numbers[0], []) is None, "what it has noted is not complete any more"
        await cluster.clock.advance(MAX_SECONDS)
        assert (len(peers), len(t.node.recent)) == (0, 0)
        number = peers.begin_listing(1.0)
        assert peers.end_listing(number, []) == []


async def test_the_number_of_recorded_listings_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_listings, "MAX_LISTINGS", 2)
    monkeypatch.setattr(peer_listings, "MAX_KEYS", 2)
    async with ClusterUnderTest() as cluster:
        peers = cluster.peers["resp-" + NODES[1]]
        peers.begin_listing(5.0)
        number = peers.begin_listing(5.0)
        with pytest.raises(Overloaded):
            peers.begin_listing(5.0)
        with pytest.raises(InvalidRequest, match="keys: got 3"):
            peers.end_listing(number, [b"a", b"b", b"c"])


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["delete", "put"]), st.sampled_from(KEYS[:4])),
        st.tuples(st.just("list"), st.sampled_from(NODES)),
        st.tuples(st.just("open"), st.integers(0, 5)),
        st.tuples(st.just("advance"), st.sampled_from([0.1, 1.0])),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_whatever_the_order_no_listing_shows_what_was_deleted_before_it(course: list[tuple[str, object]]) -> None:
    async def run() -> None:
        async with ClusterUnderTest() as cluster:
            cluster.in_s3(*KEYS[:4])
            gates = Gates(cluster)
            deleted: set[str] = set()
            listings: list[tuple[asyncio.Task[list[str]], set[str]]] = []
            for what, about in course:
                if what == "delete":
                    assert isinstance(about, str)
                    await cluster.owner(about).delete(about)
                    deleted.add(about)
                elif what == "put":
                    assert isinstance(about, str)
                    await cluster.owner(about).put(about, b"v")
                    deleted.discard(about)
                    for _, absent in listings:
                        absent.discard(about)  # it may be in a page that is not done yet
                elif what == "list":
                    assert isinstance(about, str)
                    listings.append((asyncio.create_task(cluster.listed(about, timeout=1000.0)), set(deleted)))
                    await run_ready_tasks()
                elif what == "open" and gates.waiting:
                    assert isinstance(about, int)
                    await gates.open_next(about % len(gates.waiting))
                elif what == "advance":
                    assert isinstance(about, float)
                    await cluster.clock.advance(about)
            while gates.waiting:
                await gates.open_next()
            for listing, absent in listings:
                assert not absent & set(await listing)

    asyncio.run(run())
