from __future__ import annotations

import pytest

from milena_client.admin import Admin, NodeStats, problems
from milena_client.memory_cluster import NODE, MemoryCluster
from milena_client.testing import MemoryTransport
from milena_common.errors import InvalidRequest
from tests.client.router import router


def test_what_operators_ask() -> None:
    cluster = MemoryCluster(lambda: 0.0)
    with router(lambda method, request, _: cluster.answer(method, request)) as address, Admin(address) as admin:
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
