"""A dataset by PyTorch's protocol, over a cluster in memory."""

from __future__ import annotations

import pickle

import pytest

from milena_client import BatchError, FailedPrecondition, KeyNotFound, Milena
from milena_client.dataset import MilenaDataset
from milena_client.testing import FakeMilena

KEYS = ["a", "b", "c"]


def test_items_come_in_the_order_of_the_indices_and_may_repeat() -> None:
    dataset: MilenaDataset[bytes] = MilenaDataset(FakeMilena({key: key.encode() for key in KEYS}), KEYS)
    assert len(dataset) == 3
    assert dataset.__getitems__([2, 0, 2, -1]) == [b"c", b"a", b"c", b"c"]
    assert dataset[1] == b"b"
    assert [*dataset] == [b"a", b"b", b"c"]
    assert dataset.__getitems__([]) == []


def test_an_item_is_what_the_transform_returns() -> None:
    client = FakeMilena({key: key.encode() for key in KEYS})
    dataset = MilenaDataset(client, KEYS, lambda key, value: (key, value.decode() * 2))
    assert dataset.__getitems__([0, 1]) == [("a", "aa"), ("b", "bb")]


def test_a_missing_item_is_named() -> None:
    dataset: MilenaDataset[bytes] = MilenaDataset(FakeMilena({"a": b"1"}), KEYS)
    with pytest.raises(KeyNotFound, match="'b'"):
        dataset.__getitems__([0, 1])


def test_items_that_cannot_be_read_are_named_and_the_others_are_in_the_error() -> None:
    client = FakeMilena({key: key.encode() for key in KEYS})
    dataset: MilenaDataset[bytes] = MilenaDataset(client, KEYS)
    client.fail_with(FailedPrecondition("too large"), times=1)
    with pytest.raises(BatchError) as raised:
        dataset.__getitems__([0, 1])
    assert [*raised.value.errors] == ["a"]
    assert raised.value.results == {"b": b"b"}


def test_a_dataset_is_pickled_with_its_client_and_keys() -> None:
    again = pickle.loads(pickle.dumps(MilenaDataset(Milena("router:1"), KEYS, min)))
    assert again.keys == KEYS
    assert again._client.address == "router:1"
    assert again._transform is min
