"""The router's methods as gRPC clients see them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from milena_common.api import errors
from milena_common.api.errors import MilenaError
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.limits.call_bytes import COPIES, SMALL_BYTES
from milena_common.runtime.deadlines import inner
from tests.router.router_under_test import MAX_VALUE_BYTES, SOON, Router, found, running_router
from tests.support.waiting import eventually

StatusCode = grpc.StatusCode
A, B = "node-a:50051", "node-b:50051"


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    async with running_router() as running:
        yield running


@pytest.fixture
async def joined(router: Router) -> Router:
    """A router with two nodes."""
    await router.join(A, B)
    return router


def owner_of(router: Router, cache_key: bytes) -> str:
    return router.leases.ring.find(cache_key).address


# ---- get, put, delete, list


async def test_a_get_is_the_owners_reply_with_every_field(joined: Router) -> None:
    owner = owner_of(joined, b"a/b")
    joined.nodes[owner].reply = found(b"value", owner)
    reply = await joined.stub.Get(pb.GetRequest(key=b"a/b", metadata_only=True), timeout=SOON)
    assert reply == pb.GetResponse(
        successful=True, value=b"value", outcome="hit", age_seconds=1.5, etag='"e"', node=owner, size=5
    )
    ((node, method, sent),) = joined.requests_at_nodes()
    since = joined.leases.ring.find(b"a/b").owned_since
    assert (node, method) == (owner, "Get")
    assert cache_pb.GetRequest.FromString(sent) == cache_pb.GetRequest(
        key=b"a/b", owned_since=since, metadata_only=True
    )


async def test_a_put_reaches_the_owner_with_its_value(joined: Router) -> None:
    owner = owner_of(joined, b"k")
    joined.nodes[owner].reply = cache_pb.PutResponse(successful=True, etag='"e"', node=owner).SerializeToString()
    value = bytes(MAX_VALUE_BYTES)
    reply = await joined.stub.Put(pb.PutRequest(key=b"k", value=value), timeout=SOON)
    assert reply == pb.PutResponse(successful=True, etag='"e"', node=owner)
    ((node, method, sent),) = joined.requests_at_nodes()
    assert (node, method) == (owner, "Put")
    received = cache_pb.PutRequest.FromString(sent)
    assert (received.key, received.value) == (b"k", value)
    assert received.owned_since == joined.leases.ring.find(b"k").owned_since


async def test_a_delete_reaches_the_owner(joined: Router) -> None:
    owner = owner_of(joined, b"k")
    joined.nodes[owner].reply = cache_pb.DeleteResponse(successful=True, node=owner).SerializeToString()
    reply = await joined.stub.Delete(pb.DeleteRequest(key=b"k"), timeout=SOON)
    assert reply == pb.DeleteResponse(successful=True, node=owner)
    ((node, method, sent),) = joined.requests_at_nodes()
    assert (node, method) == (owner, "Delete")
    assert cache_pb.DeleteRequest.FromString(sent).key == b"k"


async def test_a_list_passes_through_both_ways(joined: Router) -> None:
    entry = cache_pb.ObjectInfo(key=b"p/1", size=3, etag='"e"', last_modified=12.5)
    joined.nodes[A].reply = joined.nodes[B].reply = cache_pb.ListResponse(
        objects=[entry], cursor="next"
    ).SerializeToString()
    request = pb.ListRequest(prefix=b"p/", bucket="other", cursor="here", limit=7)
    reply = await joined.stub.List(request, timeout=SOON)
    assert reply == pb.ListResponse(
        objects=[pb.ObjectInfo(key=b"p/1", size=3, etag='"e"', last_modified=12.5)], cursor="next"
    )
    ((_, method, sent),) = joined.requests_at_nodes()
    assert method == "List"
    assert cache_pb.ListRequest.FromString(sent) == cache_pb.ListRequest(
        prefix=b"p/", bucket="other", cursor="here", limit=7
    )


@pytest.mark.parametrize("bucket", ["", "default", "photos"])
async def test_every_spelling_of_the_default_bucket_has_one_owner(joined: Router, bucket: str) -> None:
    for node in (A, B):
        joined.nodes[node].reply = found(b"", node)
    for number in range(20):
        key = b"%d" % number
        reply = await joined.stub.Get(pb.GetRequest(key=key, bucket=bucket), timeout=SOON)
        assert reply.node == owner_of(joined, key)


async def test_another_buckets_object_has_a_cache_key_of_its_own(joined: Router) -> None:
    for node in (A, B):
        joined.nodes[node].reply = found(b"", node)
    for number in range(20):
        reply = await joined.stub.Get(pb.GetRequest(key=b"%d" % number, bucket="videos"), timeout=SOON)
        assert reply.node == owner_of(joined, b"s3://videos/%d" % number)


async def test_a_node_has_less_time_than_the_caller(joined: Router) -> None:
    owner = owner_of(joined, b"k")
    await joined.stub.Get(pb.GetRequest(key=b"k"), timeout=4)
    ((_, _, timeout),) = joined.nodes[owner].calls
    assert 2 < timeout <= inner(4.1)


async def test_a_caller_that_names_no_deadline_has_the_routers(joined: Router) -> None:
    owner = owner_of(joined, b"k")
    await joined.stub.Get(pb.GetRequest(key=b"k"))
    ((_, _, timeout),) = joined.nodes[owner].calls
    assert timeout == pytest.approx(inner(joined.config.request_timeout))


# ---- bad input

KEYS = [
    (b"", "key: is empty"),
    (b"x" * 1025, "key: has 1025 bytes; allowed are 1 to 1024"),
    (b"\xff", "key: is not UTF-8"),
    (b"a\x00", "key: has a NUL"),
]


@pytest.mark.parametrize(("key", "rule"), KEYS)
@pytest.mark.parametrize("kind", [pb.GetRequest, pb.PutRequest, pb.DeleteRequest, pb.OwnerRequest])
async def test_the_error_of_a_bad_key_states_the_rule_and_it_reaches_no_node(
    joined: Router, kind: type, key: bytes, rule: str
) -> None:
    status, error = await joined.rejection(kind.__name__.removesuffix("Request"), kind(key=key))
    assert status is StatusCode.INVALID_ARGUMENT
    assert str(error).startswith(rule)
    assert joined.requests_at_nodes() == []


@pytest.mark.parametrize("bucket", ["Photos", "a", "a/b", "x" * 64, "192.168.0.1", "ü" * 20])
@pytest.mark.parametrize("kind", [pb.GetRequest, pb.PutRequest, pb.DeleteRequest, pb.OwnerRequest])
async def test_the_error_of_a_bad_bucket_states_the_rule_and_it_reaches_no_node(
    joined: Router, kind: type, bucket: str
) -> None:
    status, error = await joined.rejection(kind.__name__.removesuffix("Request"), kind(key=b"k", bucket=bucket))
    assert status is StatusCode.INVALID_ARGUMENT
    assert str(error).startswith("bucket: ")
    assert joined.requests_at_nodes() == []


async def test_the_error_of_a_value_over_the_limit_has_both_sizes_and_it_reaches_no_node(joined: Router) -> None:
    request = pb.PutRequest(key=b"k", value=bytes(MAX_VALUE_BYTES + 1))
    status, error = await joined.rejection("Put", request)
    assert status is StatusCode.INVALID_ARGUMENT
    assert str(error) == "value: has 1001 bytes; allowed are at most 1000 (MAX_VALUE_BYTES)"
    assert joined.requests_at_nodes() == []


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (pb.JoinRequest(), "address: got ''; allowed: host:port or http://host:port"),
        (pb.JoinRequest(address="node-a"), "address: got 'node-a'"),
        (pb.JoinRequest(address="https://node-a:1"), "address: .*scheme 'https'"),
        (pb.JoinRequest(address="node-a:0"), "address: .*port 0 is out of range"),
        (pb.JoinRequest(address="0.0.0.0:50051"), "address: .*others cannot reach; set the node's ADVERTISE_ADDR"),
        (pb.JoinRequest(address="[::]:50051"), "address: .*others cannot reach"),
        (pb.JoinRequest(address="x" * 100_000), "address: got 'x{100}'; "),
        (pb.JoinRequest(address=A, weight=-1), "weight: got -1; allowed: above 0, up to 1000"),
        (pb.JoinRequest(address=A, weight=1001), "weight: got 1001"),
        (pb.JoinRequest(address=A, weight=float("nan")), "weight: got nan"),
        (pb.JoinRequest(address=A, weight=float("inf")), "weight: got inf"),
        (pb.JoinRequest(address=A, default_bucket="Photos"), "bucket: 'Photos'"),
        (pb.JoinRequest(address=A, node_id="x" * 201), "node_id: has 201 characters"),
        (pb.JoinRequest(address=A, addresses={"ops": "x" * 300}), "addresses: allowed are 16"),
        (pb.JoinRequest(address=A, addresses={str(n): "x" for n in range(17)}), "addresses: allowed are 16"),
    ],
)
async def test_the_error_of_a_bad_join_states_the_rule_and_it_changes_nothing(
    router: Router, request_: pb.JoinRequest, rule: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=f"^{rule}"):
        raise (await router.rejection("Join", request_))[1]
    assert router.leases.ring.epoch == 0


async def test_the_error_of_a_bad_leave_states_the_rule(router: Router) -> None:
    status, error = await router.rejection("Leave", pb.LeaveRequest(address="nowhere"))
    assert status is StatusCode.INVALID_ARGUMENT
    assert str(error).startswith("address: got 'nowhere'; allowed: ")


async def test_bytes_that_are_no_request_are_invalid(router: Router) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await router.channel.unary_unary("/router_server.Router/Join")(b"\x0a\xff", timeout=SOON)
    assert raised.value.code() is StatusCode.INVALID_ARGUMENT


# ---- nodes that do not reply


async def test_without_nodes_everything_is_unavailable_and_says_why(router: Router) -> None:
    for method, request in (
        ("Get", pb.GetRequest(key=b"k")),
        ("Put", pb.PutRequest(key=b"k")),
        ("Delete", pb.DeleteRequest(key=b"k")),
        ("List", pb.ListRequest()),
    ):
        status, error = await router.rejection(method, request)
        assert status is StatusCode.UNAVAILABLE
        assert type(error) is errors.NoNodes
        assert "no node in the ring" in str(error)


async def test_a_lost_node_is_unavailable_and_named_with_the_slot(joined: Router) -> None:
    owner = owner_of(joined, b"k")
    joined.nodes[owner].reply = errors.NodeLost("cannot be reached")
    status, error = await joined.rejection("Get", pb.GetRequest(key=b"k"))
    assert status is StatusCode.UNAVAILABLE
    assert type(error) is errors.NodeLost
    assert str(error) == f"node {owner}, which owns slot {slot_of(b'k')}, cannot be reached"


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (errors.OriginUnavailable("S3: 503 SlowDown"), StatusCode.UNAVAILABLE),
        (errors.AccessDenied("bucket: not served"), StatusCode.PERMISSION_DENIED),
        (errors.FailedPrecondition("not mine"), StatusCode.FAILED_PRECONDITION),
        (errors.DeadlineExceeded("too slow"), StatusCode.DEADLINE_EXCEEDED),
        (errors.Overloaded("busy"), StatusCode.RESOURCE_EXHAUSTED),
        (errors.InternalError("a defect"), StatusCode.INTERNAL),
    ],
)
async def test_the_rejection_of_a_node_is_passed_on_unchanged(
    joined: Router, reply: MilenaError, status: grpc.StatusCode
) -> None:
    joined.nodes[A].reply = joined.nodes[B].reply = reply
    got, error = await joined.rejection("Get", pb.GetRequest(key=b"k"))
    assert got is status
    assert (type(error), str(error)) == (type(reply), str(reply))


# ---- rate limit


async def test_over_the_limit_requests_are_rejected_at_once_with_the_time_to_wait() -> None:
    async with running_router(rate_limit=4) as router:
        await router.join(A)
        for request in (
            ("Get", pb.GetRequest(key=b"k")),
            ("Put", pb.PutRequest(key=b"k")),
            ("Delete", pb.DeleteRequest(key=b"k")),
            ("List", pb.ListRequest()),
        ):
            await getattr(router.stub, request[0])(request[1], timeout=SOON)
        requests_at_nodes = len(router.requests_at_nodes())
        for method, message in (("Get", pb.GetRequest(key=b"k")), ("Put", pb.PutRequest(key=b"k"))):
            status, error = await router.rejection(method, message)
            assert status is StatusCode.RESOURCE_EXHAUSTED
            assert isinstance(error, errors.RateLimited)
            assert error.retry_after == 0.25
            assert "RATE_LIMIT of 4 requests a second; try again in 250 ms" in str(error)
        assert len(router.requests_at_nodes()) == requests_at_nodes
        assert router.limiter.rejected == 2
        router.clock.tick(0.25)
        await router.stub.Get(pb.GetRequest(key=b"k"), timeout=SOON)


async def test_the_ring_and_health_are_never_limited() -> None:
    async with running_router(rate_limit=1) as router:
        await router.join(A)
        await router.stub.Get(pb.GetRequest(key=b"k"), timeout=SOON)
        await router.rejection("Get", pb.GetRequest(key=b"k"))
        health = health_pb2_grpc.HealthStub(router.channel)
        for _ in range(3):
            await router.join(A, B)
            await router.stub.Nodes(pb.NodesRequest(), timeout=SOON)
            await router.stub.Owner(pb.OwnerRequest(key=b"k"), timeout=SOON)
            await router.stub.Stats(pb.StatsRequest(), timeout=SOON)
            await router.stub.Leave(pb.LeaveRequest(address=B), timeout=SOON)
            reply = await health.Check(health_pb2.HealthCheckRequest(), timeout=SOON)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_limit_of_0_is_none(joined: Router) -> None:
    for _ in range(300):
        await joined.stub.Get(pb.GetRequest(key=b"k"), timeout=SOON)
    assert joined.limiter.rejected == 0


# ---- join and leave


async def test_the_reply_to_a_join_has_lease_epoch_and_ring_size(router: Router) -> None:
    reply = await router.stub.Join(pb.JoinRequest(address=A), timeout=SOON)
    epoch = router.leases.ring.epoch
    assert epoch > 0
    assert reply == pb.JoinResponse(successful=True, lease_seconds=5, epoch=epoch, ring_size=1)
    assert await router.stub.Join(pb.JoinRequest(address=A), timeout=SOON) == reply


async def test_every_spelling_of_an_address_is_one_node(router: Router) -> None:
    await router.join("http://node-a:50051", "node-a:50051", "http://node-a:50051/")
    assert [member.address for member in router.leases.ring.members] == [A]
    reply = await router.stub.Leave(pb.LeaveRequest(address="http://node-a:50051"), timeout=SOON)
    assert reply.successful


async def test_leaving_twice_is_successful_once(joined: Router) -> None:
    first = await joined.stub.Leave(pb.LeaveRequest(address=A), timeout=SOON)
    second = await joined.stub.Leave(pb.LeaveRequest(address=A), timeout=SOON)
    assert (first.successful, second.successful) == (True, False)
    assert first.epoch == second.epoch == joined.leases.ring.epoch


async def test_a_node_with_another_bucket_is_rejected(joined: Router) -> None:
    status, error = await joined.rejection("Join", pb.JoinRequest(address="node-c:1", default_bucket="videos"))
    assert status is StatusCode.FAILED_PRECONDITION
    assert "S3_BUCKET=videos" in str(error)


async def test_a_node_is_taken_in_whatever_epoch_it_has_seen(router: Router) -> None:
    for epoch in (2**63, 2**64 - 1):
        await router.stub.Join(pb.JoinRequest(address=A, epoch=epoch), timeout=SOON)
    await router.stub.Join(pb.JoinRequest(address=B), timeout=SOON)
    await router.stub.Get(pb.GetRequest(key=b"k"), timeout=SOON)


# ---- showing the ring


async def test_nodes_shows_the_members(router: Router) -> None:
    request = pb.JoinRequest(address=A, node_id="one", weight=2, addresses={"ops": "node-a:9091"})
    await router.stub.Join(request, timeout=SOON)
    router.clock.tick(2)
    await router.stub.Join(pb.JoinRequest(address=B, node_id="two"), timeout=SOON)
    router.clock.tick(1)
    reply = await router.stub.Nodes(pb.NodesRequest(), timeout=SOON)
    assert reply.epoch == router.leases.ring.epoch
    first, second = reply.nodes
    assert (first.address, first.node_id, first.weight, dict(first.addresses)) == (
        A,
        "one",
        2,
        {"ops": "node-a:9091"},
    )
    assert (first.lease_remaining_seconds, first.member_seconds) == (2, 3)
    assert (second.address, second.weight, second.lease_remaining_seconds, second.member_seconds) == (B, 1, 4, 1)
    assert first.slots + second.slots == SLOTS
    assert first.slots > second.slots


async def test_a_restarted_node_is_shown_as_it_is_now(joined: Router) -> None:
    await joined.stub.Join(pb.JoinRequest(address=A, node_id="new", addresses={"ops": "x:1"}), timeout=SOON)
    reply = await joined.stub.Nodes(pb.NodesRequest(), timeout=SOON)
    assert (reply.nodes[0].node_id, dict(reply.nodes[0].addresses)) == ("new", {"ops": "x:1"})


async def test_owner_shows_the_owner_of_a_key(joined: Router) -> None:
    reply = await joined.stub.Owner(pb.OwnerRequest(key=b"foo"), timeout=SOON)
    ring = joined.leases.ring
    assert reply == pb.OwnerResponse(
        slot=12182,
        address=ring.owner(12182),
        successor=({A, B} - {ring.owner(12182)}).pop(),
        epoch=ring.epoch,
        owned_since=ring.find(b"foo").owned_since,
    )


async def test_owner_in_an_empty_ring_is_none(router: Router) -> None:
    reply = await router.stub.Owner(pb.OwnerRequest(key=b"foo"), timeout=SOON)
    assert (reply.slot, reply.address, reply.successor) == (12182, "", "")


async def test_stats_has_every_node_also_one_that_cannot_be_reached(joined: Router) -> None:
    joined.nodes[A].reply = cache_pb.StatsResponse(
        values={"hits": 3.0}, not_ready="bucket missing"
    ).SerializeToString()
    joined.nodes[B].reply = errors.NodeLost("cannot be reached")
    reply = await joined.stub.Stats(pb.StatsRequest(), timeout=SOON)
    assert list(reply.nodes) == [
        pb.NodeStats(address=A, values={"hits": 3.0}, not_ready="bucket missing"),
        pb.NodeStats(address=B, error="cannot be reached"),
    ]
    await joined.stub.Leave(pb.LeaveRequest(address=A), timeout=SOON)
    await joined.stub.Leave(pb.LeaveRequest(address=B), timeout=SOON)
    assert await joined.stub.Stats(pb.StatsRequest(), timeout=SOON) == pb.StatsResponse()


# ---- large values


async def test_a_large_value_is_fetched_from_the_node_when_there_is_room_for_it(joined: Router) -> None:
    owner = owner_of(joined, b"k")
    value = bytes(300_000)
    used: list[int] = []

    def reply(_: str, request: bytes) -> bytes:
        requests_at_nodes = cache_pb.GetRequest.FromString(request)
        used.append(joined.budget.used)
        if len(value) <= requests_at_nodes.max_bytes:
            return found(value, owner)
        return cache_pb.GetResponse(
            successful=True, outcome="hit", node=owner, size=len(value), omitted=True
        ).SerializeToString()

    joined.nodes[owner].reply = reply
    assert (await joined.stub.Get(pb.GetRequest(key=b"k"), timeout=SOON)).value == value
    assert used == [0, COPIES * len(value)]
    assert joined.nodes[owner].announced == [0, len(value)]
    assert len(joined.requests_at_nodes()) == 2
    await eventually(lambda: joined.budget.used == 0)


async def test_a_large_value_without_room_is_rejected_and_never_fetched(joined: Router) -> None:
    owner = owner_of(joined, b"k")
    joined.nodes[owner].reply = cache_pb.GetResponse(
        successful=True, outcome="hit", node=owner, size=300_000, omitted=True
    ).SerializeToString()
    assert joined.budget.try_take(joined.budget.limit)
    with pytest.raises(grpc.aio.AioRpcError):
        await joined.stub.Get(pb.GetRequest(key=b"k"), timeout=0.2)
    assert len(joined.requests_at_nodes()) == 1


async def test_a_part_of_a_large_value_takes_room_for_its_own_bytes(joined: Router) -> None:
    owner = owner_of(joined, b"k")
    part = bytes(100_000)
    requests_at_nodes: list[tuple[int, int, str, int]] = []

    def reply(_: str, request: bytes) -> bytes:
        get = cache_pb.GetRequest.FromString(request)
        requests_at_nodes.append((get.offset, get.length, get.if_match, get.max_bytes))
        if len(part) <= get.max_bytes:
            return found(part, owner)
        return cache_pb.GetResponse(
            successful=True, outcome="hit", node=owner, size=300_000, omitted=True
        ).SerializeToString()

    joined.nodes[owner].reply = reply
    request = pb.GetRequest(key=b"k", offset=-200_000, length=100_000, if_match='"e"')
    assert (await joined.stub.Get(request, timeout=SOON)).value == part
    assert requests_at_nodes == [(-200_000, 100_000, '"e"', SMALL_BYTES), (-200_000, 100_000, '"e"', 100_000)]
    assert joined.nodes[owner].announced == [0, 100_000]
    await eventually(lambda: joined.budget.used == 0)


async def test_a_condition_of_a_read_that_can_never_hold_is_rejected_by_its_name(joined: Router) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="if_match"):
        await joined.stub.Get(pb.GetRequest(key=b"k", if_match="\n"), timeout=SOON)
    assert joined.requests_at_nodes() == []
