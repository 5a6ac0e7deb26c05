"""Estimates of several nodes, put together."""

from __future__ import annotations

import pytest

from milena_client.core.estimates.sizes import read_sizes, together
from milena_common.api.pb import router_server_pb2 as pb


def point(scale: float, hit_ratio: float, gets: float, sample: float = 1.0) -> pb.SizePoint:
    return pb.SizePoint(
        scale=scale,
        max_entries=10 * scale,
        max_bytes=100 * scale,
        hit_ratio=hit_ratio,
        gets=gets,
        puts=1,
        read_bytes=1000,
        cost=0.5,
        sample=sample,
    )


def test_nodes_are_put_together_by_their_reads() -> None:
    response = pb.SizeResponse(
        nodes=[
            pb.NodeSize(
                address="a",
                seconds=10,
                reads=30,
                hit_ratio=0.5,
                points=[point(1, 0.5, 100), point(2, 0.9, 20, 0.2)],
            ),
            pb.NodeSize(
                address="b", seconds=20, reads=20, hit_ratio=0.1, points=[point(1, 0.1, 50, 0.5), point(2, 0.5, 30)]
            ),
            pb.NodeSize(address="c", error="lost"),
        ]
    )
    nodes = read_sizes().read(response)
    assert [(node.address, node.error, node.reads, len(node.estimates)) for node in nodes] == [
        ("a", "", 3.0, 2),
        ("b", "", 1.0, 2),
        ("c", "lost", 0.0, 0),
    ]
    all_of_them = together(nodes)
    assert (all_of_them.seconds, all_of_them.reads, all_of_them.hit_ratio) == (10, 4.0, pytest.approx(0.4))
    one, two = all_of_them.estimates
    assert (one.scale, one.hit_ratio, one.gets, one.sample) == (1, pytest.approx(0.4), 150, 0.5)
    assert (two.scale, two.hit_ratio, two.gets, two.sample) == (2, pytest.approx(0.8), 50, 0.2)
    assert (two.max_entries, two.max_bytes, two.puts, two.read_bytes, two.cost) == (40, 400, 2, 2000, 1.0)


def test_without_a_node_and_without_reads_there_is_nothing_to_add_up() -> None:
    assert together([]).estimates == ()
    idle = read_sizes().read(pb.SizeResponse(nodes=[pb.NodeSize(address="a", points=[point(1, 1.0, 0)])]))
    assert [each.hit_ratio for each in together(idle).estimates] == [1.0]
