"""Pure. Runs of slots as a message: four lists of numbers, some 3 to 6 bytes a run, epochs included.

The router sends rings in this form to followers that announce the feature `RUNS`; others get ranges with addresses.
A message that does not cover each slot once is rejected, so that no follower adopts half of a ring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_runs import Run, whole
from milena_common.cluster.slots import SLOTS

# Bit of `WatchRingRequest.features`: the caller reads `RingUpdate.runs`, and changes of the last ring of a stream.
RUNS = 1
# Bit of the same, and of `JoinRequest.features`: the node fences itself by its lease, takes part in promises, and
# hands slots over. A ring has `RingUpdate.released_epoch` only while all its nodes do.
MOVES = 2
# Bit of the same: the node keeps copies of other nodes' writes, and has others keep copies of its own. A ring has
# `RingUpdate.copies` only while all its nodes do.
COPIES = 8


def runs_message(runs: Iterable[Run], places: Mapping[str, int]) -> pb.SlotRuns:
    """Return the message of `runs`, which ascend; slots in none get the owner 0. `places`: nodes by address."""
    message = pb.SlotRuns()
    epochs: dict[int, int] = {}
    lengths, owners, since = [], [], []
    for first, last, address, owned_since in whole(runs, 0):
        lengths.append(last + 1 - first)
        owners.append(places[address] + 1 if address else 0)
        since.append(epochs.setdefault(owned_since, len(epochs)))
    message.lengths.extend(lengths)
    message.owners.extend(owners)
    message.since.extend(since)
    message.epochs.extend(epochs)
    return message


def read_runs(message: pb.SlotRuns, addresses: Sequence[str]) -> list[Run]:
    """Return the runs of `message` that have an owner, by its place in `addresses`.

    Raises ValueError if the message does not have each of the slots once, or names a node or an epoch that is not
    one of those given.
    """
    lengths, epochs = list(message.lengths), list(message.epochs)
    if not len(lengths) == len(message.owners) == len(message.since) or sum(lengths) != SLOTS or 0 in lengths:
        raise ValueError(f"runs of {sum(lengths)} slots in {len(lengths)} parts; expected {SLOTS}")
    runs = []
    first = 0
    try:
        for length, owner, since in zip(lengths, message.owners, message.since, strict=True):
            if owner:
                runs.append(Run(first, first + length - 1, addresses[owner - 1], epochs[since]))
            first += length
    except IndexError:
        raise ValueError(
            f"a run has a node or an epoch that is not one of {len(addresses)}, {len(epochs)}"
        ) from None
    return runs
