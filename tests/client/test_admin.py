from __future__ import annotations

from typing import Any

import pytest

from milena_client.admin import Admin, DeadLetters, FailedWrite, NodeStats, problems
from milena_client.core.values import Flushed
from milena_client.testing import FakeClock, MemoryTransport
from milena_client.testing.memory_cluster import NODE, MemoryCluster
from milena_common.api.errors import InvalidRequest, NodeLost
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.router import router
from tests.client.scripted import Reply, Script, ScriptedTransport


def test_requests_of_operators() -> None:
    cluster = MemoryCluster(lambda: 0.0)
    with router(lambda method, request, _: cluster.respond(method, request)) as address, Admin(address) as admin:
        view = admin.nodes()
        assert (view.epoch, [node.address for node in view.nodes], view.nodes[0].slots) == (1, [NODE], 16384)
        owner = admin.owner("123456789")
        assert (owner.slot, owner.address, owner.successor) == (12739, NODE, "")
        (stats,) = admin.stats()
        assert stats.address == NODE
        assert stats.values["hits"] == 0
        assert admin.leave(NODE) is True
        assert admin.leave(NODE) is False
        assert admin.nodes().nodes == []


LETTERS = pb.ListDeadLettersResponse(
    writes=[
        pb.FailedWrite(
            key="ü/1".encode(),
            bucket="logs",
            operation="put",
            size=3,
            version="1-2",
            reason="403 AccessDenied",
            failed_at=12.5,
            node="n:1",
        )
    ],
    total=7,
)


def admin(*replies: Reply, bucket: str = "") -> tuple[Admin, Script]:
    clock = FakeClock()
    script = Script(clock, *replies)
    return Admin(bucket=bucket, transport=ScriptedTransport(script), clock=clock), script


def test_dead_letters_are_listed() -> None:
    operator, script = admin(LETTERS)
    assert operator.failed(5) == DeadLetters(
        [FailedWrite("ü/1", "logs", "put", 3, "1-2", "403 AccessDenied", 12.5, "n:1")], 7
    )
    assert script.requests == [pb.ListDeadLettersRequest(limit=5)]
    for limit in (0, -1, 2**32):
        with pytest.raises(InvalidRequest, match="limit"):
            operator.failed(limit)


def test_dead_letters_are_resolved_by_key_or_all() -> None:
    operator, script = admin(pb.ResolveDeadLettersResponse(resolved=2), bucket="logs")
    assert operator.retry(["k", b"l", "k"]) == 2
    assert operator.drop(all=True) == 2
    assert script.requests == [
        pb.ResolveDeadLettersRequest(action="retry", keys=[b"k", b"l"], bucket="logs"),
        pb.ResolveDeadLettersRequest(action="drop", all=True),
    ]


@pytest.mark.parametrize("resolve", [Admin.retry, Admin.drop])
def test_which_dead_letters_must_be_said(resolve: Any) -> None:
    operator, script = admin(pb.ResolveDeadLettersResponse())
    for keys, everything in (((), False), (("k",), True)):
        with pytest.raises(InvalidRequest, match="keys, all"):
            resolve(operator, keys, all=everything)
    with pytest.raises(TypeError, match="list"):
        resolve(operator, "k")
    assert script.requests == []


def test_a_retry_may_be_repeated_and_a_drop_may_not() -> None:
    operator, script = admin(NodeLost("gone"), pb.ResolveDeadLettersResponse(resolved=1))
    assert operator.retry(all=True) == 1
    operator, script = admin(NodeLost("gone"), pb.ResolveDeadLettersResponse(resolved=1))
    with pytest.raises(NodeLost):
        operator.drop(all=True)
    assert len(script.requests) == 1


def test_flushing_some_keys_or_everything() -> None:
    operator, script = admin(pb.FlushResponse(remaining=1, flushed=2), bucket="logs")
    assert operator.flush(["k"], timeout=1.0) == Flushed(remaining=1, failed=0, flushed=2)
    operator.flush()
    assert script.requests == [pb.FlushRequest(keys=[b"k"], bucket="logs"), pb.FlushRequest()]
    assert script.timeouts == [1.0, 60.0]


def test_a_cluster_in_memory_has_nothing_to_resolve() -> None:
    operator = Admin(transport=MemoryTransport(MemoryCluster(lambda: 0.0)))
    assert operator.failed() == DeadLetters([], 0)
    assert operator.retry(all=True) == operator.drop(["k"]) == 0
    assert operator.flush() == Flushed(0, 0, 0)


def test_a_bad_key_has_no_owner() -> None:
    with pytest.raises(InvalidRequest):
        Admin(transport=MemoryTransport(MemoryCluster(lambda: 0.0))).owner("")


def test_another_bucket_has_other_slots() -> None:
    cluster = MemoryCluster(lambda: 0.0)
    slots = {Admin(bucket=name, transport=MemoryTransport(cluster)).owner("k").slot for name in ("", "logs")}
    assert len(slots) == 2


def test_what_keeps_a_cluster_from_being_healthy() -> None:
    well = NodeStats("a:1", {}, "", "")
    assert problems([well]) == []
    assert problems([]) == ["the ring has no node"]
    found = problems(
        [well, NodeStats("b:1", {}, "bucket x: 404", ""), NodeStats("c:1", {}, "", "cannot be reached")]
    )
    assert found == ["node b:1: bucket x: 404", "node c:1: cannot be reached"]
