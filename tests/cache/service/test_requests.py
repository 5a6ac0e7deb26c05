"""What a node does for callers, without a protocol: which object, whose it is, and what is found."""

from __future__ import annotations

from typing import Any

import pytest

from milena_cache.origin.conditions import Capability, Finding, State
from milena_cache.service.requests import MAX_LIST, Got, Requests
from milena_common.api.errors import AccessDenied, InvalidRequest, Moved, WrongNode
from milena_common.resp.identity import Identity
from tests.cache.servers.resp.server_under_test import ServerUnderTest, ring
from tests.support.conditions import made_conditions

OTHER = "127.0.0.1:60051"


async def put(requests: Requests, key: bytes, value: bytes, **more: Any) -> None:
    options = {"durability": "", "if_match": "", "if_none_match": "", "ttl_ms": 0, **more}
    await requests.put(requests.place("", key), value, None, **options)


async def get(requests: Requests, key: bytes, **more: Any) -> Got:
    found = requests.get(requests.place("", key), None, **more)
    return found if isinstance(found, Got) else await found


async def test_a_request_that_does_not_name_the_owner_is_checked_against_the_ring() -> None:
    server = ServerUnderTest()
    assert server.requests.place("", b"k")[1] == 1
    server.ownership.update(ring(OTHER, epoch=2))
    with pytest.raises(Moved):
        server.requests.place("", b"k")
    target, owned_since = server.requests.place("", b"k", 3)
    assert (target.cache_key, owned_since) == (b"k", 3)


def test_an_object_that_is_not_served_is_rejected_before_the_ring_is_looked_at() -> None:
    server = ServerUnderTest()
    server.ownership.update(ring(OTHER, epoch=2))
    with pytest.raises(InvalidRequest, match="key"):
        server.requests.place("", b"")
    with pytest.raises(AccessDenied):
        server.requests.place("elsewhere", b"k")


@pytest.mark.parametrize("known", [State.WORKS, State.UNKNOWN, State.BROKEN])
async def test_a_put_whose_etag_must_be_exact_goes_through_if_it_cannot_be_foretold(known: State) -> None:
    server = ServerUnderTest(mode="back", conditions=made_conditions())
    await server.t.start()
    server.t.parts.conditions.findings[Capability.ETAG] = Finding(known)

    async def reached(key: bytes, durability: str, *, exact_etag: bool) -> str:
        writing = server.requests.put(
            server.requests.place("", key),
            b"1",
            None,
            durability=durability,
            if_match="",
            if_none_match="",
            ttl_ms=0,
            exact_etag=exact_etag,
        )
        return (await writing).durability

    assert await reached(b"a", "", exact_etag=True) == ("through" if known is State.BROKEN else "back")
    assert await reached(b"b", "", exact_etag=False) == "back"
    assert await reached(b"c", "back", exact_etag=True) == "back"


def test_a_caller_that_names_another_bucket_is_rejected() -> None:
    requests = ServerUnderTest({}, buckets=None).requests
    requests.identity.bucket = "mine"
    with pytest.raises(WrongNode):
        requests.check_identity(Identity("", "other", ""))


async def test_objects_that_this_node_does_not_own_are_left() -> None:
    server = ServerUnderTest()
    server.t.in_s3("k", b"v")
    done = await server.requests.warm("", [b"k", b"gone"], [1, 1], None, dry_run=False)
    assert (done.warmed, done.absent, done.left) == (1, 1, [])
    server.ownership.update(ring(OTHER, epoch=2))
    assert (await server.requests.warm("", [b"k"], [], None, dry_run=False)).left == [b"k"]


async def test_what_cannot_be_warmed() -> None:
    requests = ServerUnderTest().requests
    for keys, sizes, what in (
        ([b""], [], "key"),
        ([b"k"], [1, 2], "sizes: got 2 for 1 keys"),
        ([b"k"] * (MAX_LIST + 1), [], "keys: got 1001"),
    ):
        with pytest.raises(InvalidRequest, match=what):
            await requests.warm("", keys, sizes, None, dry_run=False)
    with pytest.raises(AccessDenied):
        await requests.warm("elsewhere", [b"k"], [], None, dry_run=False)


async def test_a_get_returns_what_it_found_and_counts_the_bytes_that_leave() -> None:
    requests = ServerUnderTest().requests
    await put(requests, b"k", b"value", ttl_ms=10_000)
    assert requests.received_bytes == 5
    found = await get(requests, b"k")
    assert (found.exists, found.value, found.size, found.outcome, found.ttl_ms) == (
        True,
        b"value",
        5,
        "hit",
        10_000,
    )
    assert requests.sent_bytes == 5
    larger = await get(requests, b"k", max_bytes=4)
    assert (larger.exists, larger.value, larger.size, larger.omitted) == (True, b"", 5, True)
    without = await get(requests, b"k", metadata_only=True, max_bytes=4)
    assert (without.exists, without.value, without.size, without.omitted) == (True, b"", 5, False)
    missing = await get(requests, b"none")
    assert (missing.exists, missing.value, missing.size) == (False, b"", 0)
    assert requests.sent_bytes == 5


async def test_a_page_has_no_more_keys_than_a_page_may_have() -> None:
    server = ServerUnderTest(max_entries=2000)
    for number in range(MAX_LIST + 5):
        server.t.in_s3(f"k{number:04}", b"v")
    for limit in (0, MAX_LIST + 5):
        assert len((await server.requests.list_page("", b"", "", limit, None, delimiter=b"")).objects) == MAX_LIST
    assert len((await server.requests.list_page("", b"", "", 3, None, delimiter=b"")).objects) == 3


@pytest.mark.parametrize(
    ("keys", "every", "action"), [([], False, "drop"), ([b"k"], True, "drop"), ([], True, "x")]
)
async def test_failed_writes_are_resolved_by_their_keys_or_all_of_them(
    keys: list[bytes], every: bool, action: str
) -> None:
    with pytest.raises(InvalidRequest):
        await ServerUnderTest().requests.resolve_dead_letters("", keys, every, action)
