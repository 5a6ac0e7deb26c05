"""Coordination. What a node does about changes of its objects by other programs, as events report them.

It drops what it has of the object, unless that is what the event tells. That needs no order of events: what is
dropped without need is read again, and an entry that is what *one* event tells is either still what S3 has, or
another event is on its way, which drops it.

**Writes of this node that are in flight to S3.** Their events come too, and so may those of others meanwhile:

    1. an upload of this node reaches S3, and its response is on its way
    2. another program puts the object; the event arrives, and there is no entry to drop
    3. the response of step 1 arrives, and what was written is kept as fresh

So an event about a key that is being written to S3 is remembered (`Entries.overtake`) until the write's entry is to
be kept: that is kept only if the event reported it. What is dirty, and not on its way, is not touched: its upload
decides by S3's conditions what becomes of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from milena_cache.blocks.block_memory import BlockMemory
from milena_cache.membership.ownership import Ownership
from milena_cache.memory.entries import Entries
from milena_cache.objects.version import ABSENT, Base
from milena_common.api.errors import MilenaError
from milena_common.runtime.key_locks import KeyLocks

# How a change of an object ended here, as metrics count it.
DROPPED, SAME, UNKNOWN = "dropped", "same", "not_cached"


class ReportedChange(NamedTuple):
    """A change of the object with a cache key. `state`: the ETag that S3 has since then, or ABSENT."""

    key: bytes
    state: Base


def state_of(etag: str) -> Base:
    """Return the state that an event tells; "" is a removal."""
    return etag or ABSENT


class ForeignChanges:
    """The changes that are reported to one node, as the owner of their keys.

    results: how many there were, by what became of the entry
    """

    def __init__(self, entries: Entries, s3_locks: KeyLocks, blocks: BlockMemory, ownership: Ownership) -> None:
        self.results = {DROPPED: 0, SAME: 0, UNKNOWN: 0}
        self._entries = entries
        self._s3_locks = s3_locks
        self._blocks = blocks
        self._ownership = ownership

    def apply(self, changes: Sequence[ReportedChange]) -> None:
        """Drop what the changes have made old, of all of them, before an error is raised.

        Raises as `Ownership.owned_since` does if this node does not serve one of the keys, since another node has
        to get them then; and Overloaded if too many keys are being written.
        """
        error: MilenaError | None = None
        for key, state in changes:
            try:
                self._drop(key, state)
                # Not before: (1) this node is not the owner any more, and says so; (2) the owner gets it, and drops
                # what it has; (3) the slot moves back, with what this node has of the key in its memory.
                self._ownership.owned_since(key)
            except MilenaError as raised:
                error = error or raised
        if error is not None:
            raise error

    def _drop(self, key: bytes, state: Base) -> None:
        self._blocks.drop_others(key, state if isinstance(state, str) else "")
        if key in self._s3_locks:
            self._entries.overtake(key, state)
        known = self._entries.invalidate_changed(key, state)
        self.results[UNKNOWN if known is None else DROPPED if known else SAME] += 1
