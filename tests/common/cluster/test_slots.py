"""Slots against the Redis Cluster specification."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.cluster.slots import SLOTS, group_slot, slot_of

# What `CLUSTER KEYSLOT` of a Redis server replies.
KNOWN = {b"": 0, b"foo": 12182, b"bar": 5061, b"hello": 866, b"123456789": 0x31C3}


def crc16(data: bytes) -> int:
    """The specification's CRC16, bit by bit."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        crc &= 0xFFFF
    return crc


def specified(key: bytes) -> int:
    """The specification's HASH_SLOT, transcribed."""
    s = key.find(b"{")
    if s >= 0:
        e = key.find(b"}", s + 1)
        if e >= 0 and e != s + 1:
            key = key[s + 1 : e]
    return crc16(key) % 16384


def test_there_are_as_many_slots_as_in_redis_cluster() -> None:
    assert SLOTS == 16384


@pytest.mark.parametrize(("key", "slot"), KNOWN.items())
def test_known_slots(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"{user1000}.followers", b"user1000"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"{", b"{"),
        (b"{}", b"{}"),
        (b"}{", b"}{"),
        (b"a}b{c}", b"c"),
        (b"{open", b"{open"),
    ],
)
def test_hash_tags(key: bytes, hashed: bytes) -> None:
    assert slot_of(key) == crc16(hashed) % 16384


@given(st.one_of(st.binary(), st.text(alphabet="{}ab").map(str.encode)))
def test_every_key_has_the_slot_that_the_specification_gives_it(key: bytes) -> None:
    assert slot_of(key) == specified(key)


def test_the_groups_of_an_object_are_in_many_slots_whatever_its_key() -> None:
    for key in (b"k", b"{tag}/k"):
        slots = {group_slot(key, '"e"', group) for group in range(1000)}
        assert len(slots) > 900
        assert max(slots) > 16_000
        assert min(slots) < 400
    assert group_slot(b"k", '"e"', 7) == crc16(b'k\0"e"\0007') % 16384
