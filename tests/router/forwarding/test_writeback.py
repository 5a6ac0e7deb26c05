"""Durability and conditions on their way to the node, and the calls about writes that S3 does not have yet."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from milena_common.api import errors
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.runtime.deadlines import inner
from tests.router.router_under_test import SOON, Router, running_router

StatusCode = grpc.StatusCode
A, B, C = "node-a:50051", "node-b:50051", "node-c:50051"
NODES = (A, B, C)


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    async with running_router() as running:
        await running.join(*NODES)
        yield running


# ---- put, delete, get


async def test_a_put_takes_durability_and_condition_along(router: Router) -> None:
    owner = router.leases.ring.find(b"k").address
    router.nodes[owner].reply = cache_pb.PutResponse(successful=True, durability="through").SerializeToString()
    reply = await router.stub.Put(
        pb.PutRequest(key=b"k", value=b"v", durability="back", if_match='"e"'), timeout=SOON
    )
    assert reply == pb.PutResponse(successful=True, durability="through")
    await router.stub.Put(pb.PutRequest(key=b"k", value=b"v", if_none_match="*"), timeout=SOON)
    first, second = (cache_pb.PutRequest.FromString(sent) for _, _, sent in router.requests_at_nodes())
    since = router.leases.ring.find(b"k").owned_since
    assert first == cache_pb.PutRequest(key=b"k", value=b"v", owned_since=since, durability="back", if_match='"e"')
    assert second == cache_pb.PutRequest(key=b"k", value=b"v", owned_since=since, if_none_match="*")


async def test_a_delete_takes_durability_and_condition_along(router: Router) -> None:
    owner = router.leases.ring.find(b"k").address
    router.nodes[owner].reply = cache_pb.DeleteResponse(successful=True, durability="memory").SerializeToString()
    reply = await router.stub.Delete(pb.DeleteRequest(key=b"k", durability="memory", if_match='"e"'), timeout=SOON)
    assert reply == pb.DeleteResponse(successful=True, durability="memory")
    ((_, _, sent),) = router.requests_at_nodes()
    assert cache_pb.DeleteRequest.FromString(sent) == cache_pb.DeleteRequest(
        key=b"k",
        owned_since=router.leases.ring.find(b"k").owned_since,
        durability="memory",
        if_match='"e"',
    )


async def test_a_get_says_whether_s3_has_it(router: Router) -> None:
    for node in NODES:
        router.nodes[node].reply = cache_pb.GetResponse(successful=True, dirty=True).SerializeToString()
    assert (await router.stub.Get(pb.GetRequest(key=b"k"), timeout=SOON)).dirty


async def test_a_condition_that_does_not_hold_is_passed_on_unchanged(router: Router) -> None:
    for node in NODES:
        router.nodes[node].reply = errors.ConditionFailed("if_match: another")
    for method, request in (
        ("Put", pb.PutRequest(key=b"k", if_match='"e"')),
        ("Delete", pb.DeleteRequest(key=b"k", if_match='"e"')),
    ):
        status, error = await router.rejection(method, request)
        assert status is StatusCode.FAILED_PRECONDITION
        assert (type(error), str(error)) == (errors.ConditionFailed, "if_match: another")


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (pb.PutRequest(key=b"k", durability="safe"), "durability: got 'safe'; allowed: back, through, memory"),
        (pb.DeleteRequest(key=b"k", durability="BACK"), "durability: got 'BACK'"),
        (pb.PutRequest(key=b"k", if_none_match='"e"'), "if_none_match: "),
        (pb.PutRequest(key=b"k", if_match='"e"', if_none_match="*"), "if_match, if_none_match: both"),
        (pb.PutRequest(key=b"k", if_match="*"), "if_match: "),
        (pb.DeleteRequest(key=b"k", if_match="a\nb"), "if_match: "),
        (pb.FlushRequest(keys=[b"k", b""]), "key: is empty"),
        (pb.FlushRequest(bucket="No"), "bucket: 'No'"),
        (pb.ResolveDeadLettersRequest(action="retry", keys=[b"\xff"]), "key: is not UTF-8"),
        (pb.ResolveDeadLettersRequest(action="retry", all=True, bucket="No"), "bucket: 'No'"),
        (pb.ResolveDeadLettersRequest(action="forget", all=True), "action: got 'forget'; allowed: retry, drop"),
        (pb.ResolveDeadLettersRequest(all=True), "action: got ''"),
        (pb.ResolveDeadLettersRequest(action="drop"), "keys, all: "),
        (pb.ResolveDeadLettersRequest(action="drop", keys=[b"k"], all=True), "keys, all: "),
    ],
)
async def test_what_can_never_work_reaches_no_node(router: Router, request_: object, rule: str) -> None:
    status, error = await router.rejection(type(request_).__name__.removesuffix("Request"), request_)
    assert status is StatusCode.INVALID_ARGUMENT
    assert str(error).startswith(rule)
    assert router.requests_at_nodes() == []


# ---- flush, failed, settle


async def test_flush_calls_every_node_and_adds_up(router: Router) -> None:
    for number, node in enumerate(NODES):
        router.nodes[node].reply = cache_pb.FlushResponse(
            remaining=number, failed=10 * number, flushed=100
        ).SerializeToString()
    request = pb.FlushRequest(keys=[b"k", b"l"], bucket="videos")
    reply = await router.stub.Flush(request, timeout=SOON)
    assert reply == pb.FlushResponse(remaining=3, failed=30, flushed=300)
    assert sorted(router.requests_at_nodes()) == [(node, "Flush", request.SerializeToString()) for node in NODES]


async def test_flush_has_the_time_of_its_caller_or_the_routers(router: Router) -> None:
    await router.stub.Flush(pb.FlushRequest(), timeout=40)
    await router.stub.Flush(pb.FlushRequest())
    for node in NODES:
        first, second = (timeout for _, _, timeout in router.nodes[node].calls)
        assert 30 < first <= inner(40.1)
        assert second == pytest.approx(inner(router.config.request_timeout))


def letter(key: bytes, node: str, failed_at: float) -> cache_pb.FailedWrite:
    return cache_pb.FailedWrite(
        key=key,
        bucket="videos",
        operation="put",
        size=3,
        version="1-2",
        reason="403 AccessDenied",
        failed_at=failed_at,
        node=node,
    )


async def test_dead_letters_of_all_nodes_are_one_list(router: Router) -> None:
    router.nodes[A].reply = cache_pb.ListDeadLettersResponse(
        writes=[letter(b"2", A, 2.0), letter(b"4", A, 4.0)], total=2
    ).SerializeToString()
    router.nodes[B].reply = cache_pb.ListDeadLettersResponse(
        writes=[letter(b"1", B, 1.0), letter(b"3", B, 3.0)], total=5
    ).SerializeToString()
    reply = await router.stub.ListDeadLetters(pb.ListDeadLettersRequest(limit=3), timeout=SOON)
    assert [write.key for write in reply.writes] == [b"1", b"2", b"3"]
    assert reply.total == 7
    assert reply.writes[0].SerializeToString() == letter(b"1", B, 1.0).SerializeToString()


@pytest.mark.parametrize(("requested", "passed"), [(0, 1000), (7, 7), (10_000, 10_000), (2**32 - 1, 10_000)])
async def test_a_list_of_dead_letters_has_an_end(router: Router, requested: int, passed: int) -> None:
    await router.stub.ListDeadLetters(pb.ListDeadLettersRequest(limit=requested), timeout=SOON)
    sent = [cache_pb.ListDeadLettersRequest.FromString(sent) for _, _, sent in router.requests_at_nodes()]
    assert sent == [cache_pb.ListDeadLettersRequest(limit=passed)] * 3


@pytest.mark.parametrize(
    "request_",
    [
        pb.ResolveDeadLettersRequest(action="retry", all=True),
        pb.ResolveDeadLettersRequest(action="drop", keys=[b"k"], bucket="videos"),
        pb.ResolveDeadLettersRequest(action="retry", keys=[b"k", b"l"]),
    ],
)
async def test_dead_letters_are_resolved_wherever_they_are(
    router: Router, request_: pb.ResolveDeadLettersRequest
) -> None:
    for node in (A, C):
        router.nodes[node].reply = cache_pb.ResolveDeadLettersResponse(resolved=2).SerializeToString()
    assert await router.stub.ResolveDeadLetters(request_, timeout=SOON) == pb.ResolveDeadLettersResponse(resolved=4)
    assert sorted(router.requests_at_nodes()) == [
        (node, "ResolveDeadLetters", request_.SerializeToString()) for node in NODES
    ]


CALLS = [
    ("Flush", pb.FlushRequest()),
    ("Flush", pb.FlushRequest(keys=[b"k"])),
    ("ListDeadLetters", pb.ListDeadLettersRequest()),
    ("ResolveDeadLetters", pb.ResolveDeadLettersRequest(action="retry", all=True)),
]


@pytest.mark.parametrize(("method", "request_"), CALLS)
async def test_one_node_that_cannot_be_reached_fails_the_call_by_name(
    router: Router, method: str, request_: object
) -> None:
    router.nodes[B].reply = errors.NodeLost("cannot be reached: connection refused")
    status, error = await router.rejection(method, request_)
    assert status is StatusCode.UNAVAILABLE
    assert (type(error), str(error)) == (errors.NodeLost, f"node {B} cannot be reached: connection refused")
    assert {node for node, _, _ in router.requests_at_nodes()} == set(NODES)


@pytest.mark.parametrize(("method", "request_"), CALLS)
async def test_the_reply_of_a_node_is_passed_on(router: Router, method: str, request_: object) -> None:
    router.nodes[B].reply = errors.AccessDenied("bucket: not served")
    status, error = await router.rejection(method, request_)
    assert status is StatusCode.PERMISSION_DENIED
    assert str(error) == "bucket: not served"


@pytest.mark.parametrize(("method", "request_"), CALLS)
async def test_an_empty_ring_promises_nothing(method: str, request_: object) -> None:
    async with running_router() as router:
        status, error = await router.rejection(method, request_)
    assert status is StatusCode.UNAVAILABLE
    assert type(error) is errors.NoNodes


async def test_operators_are_never_limited() -> None:
    async with running_router(rate_limit=1) as router:
        await router.join(A)
        await router.stub.Get(pb.GetRequest(key=b"k"), timeout=SOON)
        await router.rejection("Get", pb.GetRequest(key=b"k"))
        for method, request in CALLS:
            await getattr(router.stub, method)(request, timeout=SOON)
        assert router.calls["flush"].requests == 2
        assert router.calls["list_dead_letters"].requests == router.calls["resolve_dead_letters"].requests == 1
