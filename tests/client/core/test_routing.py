"""From a key to the way to its owner, as the newest ring has it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_client.core.routing import Routes
from milena_common.api.keys import cache_key
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS, group_slot, slot_of
from milena_common.resp.identity import ANY, Identity

A, B = MapNode("a:1", "a:6379", "1"), MapNode("b:1", "b:6379", "2")


class Way:
    """A way to an address; equal to none but itself, like a connection."""

    def __init__(self, address: str, identity: Identity = ANY) -> None:
        self.address = address
        self.identity = identity


NOWHERE = Way("")


def ring(*nodes: MapNode, bucket: str = "", epoch: int = 1) -> SlotMap:
    """The slots in equal shares."""
    share = SLOTS // max(1, len(nodes))
    ranges = tuple(MapRange(at * share, (at + 1) * share - 1, node, 1) for at, node in enumerate(nodes))
    return SlotMap(epoch, bucket, nodes, ranges)


def routes(*nodes: MapNode, bucket: str = "", default: str = "") -> Routes[Way]:
    made = Routes(bucket, NOWHERE, Way)
    made.update(ring(*nodes, bucket=default))
    return made


KEY = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@settings(max_examples=25, deadline=None)
@given(KEY | st.sampled_from(["{tag}a", "a{tag}", "{}", "s3://bucket/k"]))
def test_a_key_belongs_to_the_owner_of_its_slot(key: str) -> None:
    both = routes(A, B)
    encoded = both.to_cache_key(key)
    assert encoded == both.to_cache_key(key.encode()) == cache_key("", key.encode())
    assert both.owner_of(encoded).address == ("a:6379" if slot_of(encoded) < SLOTS // 2 else "b:6379")
    assert both.owner_of_request(pb.GetRequest(key=key.encode())) is both.owner_of(encoded)


def test_a_read_of_blocks_goes_to_the_owner_of_their_group_and_any_other_to_that_of_the_key() -> None:
    both = routes(A, B, default="logs")
    request = pb.GetRequest(key=b"k", bucket="logs", offset=0, length=10, if_match='"e"')
    assert both.owner_of_request(request) is both.owner_of(b"k")
    request.blocks.CopyFrom(pb.BlockRead(size=10_000, group_bytes=100))
    owners = set()
    for group in range(100):
        request.offset = 100 * group + 99
        way = both.owner_of_request(request)
        assert way is both.by_slot[group_slot(b"k", '"e"', group)]
        owners.add(way)
    assert len(owners) == 2
    assert both.owner_of_request(pb.PutRequest(key=b"k")) is both.owner_of(b"k")


@settings(max_examples=25, deadline=None)
@given(st.lists(KEY | st.sampled_from(["{tag}a", "s3://bucket/k"]), unique=True), st.integers(1, 5))
def test_many_keys_are_divided_as_each_of_them_is(keys: list[str], maximum: int) -> None:
    for those in (routes(A), routes(A, B), routes(B, bucket="logs")):
        cache_keys = those.to_cache_keys(keys)
        assert cache_keys == [those.to_cache_key(key) for key in keys]
        assert cache_keys == those.to_cache_keys([key.encode() for key in keys])
        places = set()
        for way, expected, at in those.by_owner(cache_keys, maximum):
            assert len(expected) <= maximum
            assert expected == [cache_keys[place] for place in at]
            assert all(those.owner_of(key) is way for key in expected)
            assert not places & set(at)
            places |= set(at)
        assert places == set(range(len(keys)))


@pytest.mark.parametrize("key", ["\ud800", 5, None, bytearray(b"k")])
def test_an_invalid_key_is_left_to_the_validation_at_the_router(key: object) -> None:
    assert routes(A).to_cache_key(key) is None  # type: ignore[arg-type]
    assert routes(A).to_cache_keys(["k", key]) is None  # type: ignore[list-item]


def test_another_bucket_is_part_of_the_key() -> None:
    assert routes(A, bucket="logs").to_cache_key("k") == b"s3://logs/k"
    assert routes(A, bucket="logs", default="logs").to_cache_key("k") == b"k"
    assert routes(A, default="logs").to_cache_key("k") == b"k"


def test_without_a_ring_there_is_no_way() -> None:
    none = Routes("", NOWHERE, Way)
    assert none.owner_of(b"k") is NOWHERE
    assert none.all_ways() == []


def test_a_node_without_a_resp_server_has_no_direct_path() -> None:
    half = routes(A, MapNode("b:1", "", "2"))
    assert {half.by_slot[0].address, half.by_slot[-1].address} == {"a:6379", ""}
    assert half.only is None


def test_ways_are_kept_while_their_nodes_stay() -> None:
    both = routes(A, B)
    a, b = both.by_slot[0], both.by_slot[-1]
    assert both.update(ring(B, epoch=2)) == [a]
    assert both.only is both.by_slot[0] is b


def test_a_restarted_node_is_another_one() -> None:
    one = routes(A)
    (old,) = one.all_ways()
    assert one.update(ring(A._replace(node_id="new"), epoch=2)) == [old]
    assert one.by_slot[0] is not old


def test_a_node_that_only_a_move_has_named_is_found_again_in_the_next_ring() -> None:
    one = routes(A)
    assert one.redirect("a:6379") is one.by_slot[0]
    b = one.redirect("b:6379")
    assert one.redirect("b:6379") is b
    lost = one.redirect("c:6379")
    assert one.update(ring(A, B, epoch=2)) == [lost]
    assert one.by_slot[-1] is b
