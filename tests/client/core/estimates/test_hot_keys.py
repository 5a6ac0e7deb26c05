"""Hot keys of several nodes."""

from __future__ import annotations

from milena_client.core.estimates.hot_keys import HotKey, read_hot_keys
from milena_common.api.pb import router_server_pb2 as pb


def test_hot_keys_of_all_nodes_are_in_one_order() -> None:
    def hot(key: bytes, reads: float, size: float) -> pb.HotKey:
        return pb.HotKey(key=key, reads=reads, read_bytes=size)

    one = pb.NodeHotKeys(
        address="a",
        reads=100,
        read_bytes=7,
        by_reads=[hot(b"x", 9, 1), hot(b"y", 2, 5)],
        by_bytes=[hot(b"y", 2, 5)],
    )
    two = pb.NodeHotKeys(address="b", reads=50, by_reads=[hot(b"\xff", 5, 2)], by_bytes=[hot(b"z", 1, 6)])
    lost = pb.NodeHotKeys(address="c", error="lost")
    found = read_hot_keys(reset=False).read(pb.HotKeysResponse(nodes=[one, two, lost]))
    assert (found.reads, found.read_bytes, found.errors) == (150, 7, {"c": "lost"})
    assert found.by_reads == [
        HotKey("x", "", 9, 1, "a"),
        HotKey("�", "", 5, 2, "b"),
        HotKey("y", "", 2, 5, "a"),
    ]
    assert [key.key for key in found.by_bytes] == ["z", "y"]
