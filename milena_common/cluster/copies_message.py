"""Pure. The holders of copies as a message: runs of slots, and a table of the distinct lists of holders.

Adjacent slots have the same holders, and many runs have the same list, so a run costs some 3 bytes and a list some
5. A message that does not cover each slot once is rejected, so that no follower adopts half of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slots import SLOTS

# Holders of one slot. There are more than wanted while new ones are filled.
MAX_HOLDERS = 8

# Place of a node in the message's nodes, and since which epoch it is filling; None: it is complete.
Places = tuple[tuple[int, int | None], ...]


class PlacedCopies(NamedTuple):
    """Slots `first` to `last`, both included, whose holders are the nodes at these places."""

    first: int
    last: int
    holders: Places


def copies_message(copies: Iterable[PlacedCopies]) -> pb.SlotCopies:
    """Return the message of `copies`, which ascend. Slots in none of them get no list.

    An empty list is one too: in a change of a ring it takes the holders away, and no list leaves them as they are.

    Raises ValueError for a list that `read_copies` rejects, since it may be stored where all routers read it.
    """
    message = pb.SlotCopies()
    lists: dict[Places, int] = {}
    epochs: dict[int, int] = {}
    free = 0
    for first, last, holders in copies:
        if free < first:
            message.lengths.append(first - free)
            message.lists.append(0)
        number = 1 + lists.setdefault(holders, len(lists))
        if message.lists and message.lists[-1] == number:
            message.lengths[-1] += last + 1 - first
        else:
            message.lengths.append(last + 1 - first)
            message.lists.append(number)
        free = last + 1
    if free < SLOTS:
        message.lengths.append(SLOTS - free)
        message.lists.append(0)
    for holders in lists:
        _check_holders([place for place, _ in holders])
        message.sizes.append(len(holders))
        for place, since in holders:
            message.holders.append(place)
            message.since.append(0 if since is None else 1 + epochs.setdefault(since, len(epochs)))
    message.epochs.extend(epochs)
    return message


def read_copies(message: pb.SlotCopies) -> list[PlacedCopies]:
    """Return the runs of `message` that have a list.

    Raises ValueError if the message does not have each of the slots once, if a list or an epoch is not one of those
    given, and if a list has a holder twice, or more than MAX_HOLDERS.
    """
    lengths, epochs = list(message.lengths), list(message.epochs)
    if len(lengths) != len(message.lists) or sum(lengths) != SLOTS or 0 in lengths:
        raise ValueError(f"copies of {sum(lengths)} slots in {len(lengths)} parts; expected {SLOTS}")
    if len(message.holders) != len(message.since) or sum(message.sizes) != len(message.holders):
        raise ValueError(f"lists of {sum(message.sizes)} holders; {len(message.holders)} are given")
    lists: list[Places] = []
    runs = []
    at = first = 0
    try:
        for size in message.sizes:
            places = message.holders[at : at + size]
            _check_holders(places)
            since = [epochs[each - 1] if each else None for each in message.since[at : at + size]]
            lists.append(tuple(zip(places, since, strict=True)))
            at += size
        for length, number in zip(lengths, message.lists, strict=True):
            if number:
                runs.append(PlacedCopies(first, first + length - 1, lists[number - 1]))
            first += length
    except IndexError:
        raise ValueError(f"a run has a list or an epoch that is not one of {len(lists)}, {len(epochs)}") from None
    return runs


def _check_holders(places: Sequence[int]) -> None:
    """Raise ValueError if a list has a holder twice, or more than MAX_HOLDERS."""
    if len(places) > MAX_HOLDERS:
        raise ValueError(f"a slot has {len(places)} holders; allowed are {MAX_HOLDERS}")
    if len(set(places)) < len(places):
        raise ValueError("a slot has one holder twice")
