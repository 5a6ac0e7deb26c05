"""Coordination. Copies that are queued for a commit of the journal, and what waits for them.

A frame has one `AwaitedCopies`, and not a future for each of its records: they share a commit, and one reply.
"""

from __future__ import annotations

import asyncio

from milena_cache.copies.store import Copy
from milena_cache.journal.commit import JournalFull


class AwaitedCopies:
    """The queued copies that a frame, or something else, waits for.

    number: of those that are still queued
    error: the first one that kept a copy out of the journal, None without; JournalFull only if there is no other
    """

    __slots__ = ("error", "number")

    def __init__(self) -> None:
        self.number = 0
        self.error: Exception | None = None

    def all_done(self) -> None:
        """Called when the last copy is in the journal, or will not be; must not raise."""
        raise NotImplementedError

    def add(self, waiting: PendingCopy) -> None:
        """Wait for `waiting` too, which is queued."""
        if waiting.done():  # the disk has not responded in time, and it may still be in a commit
            self._record_error(waiting.error)
            return
        self.number += 1
        waiting.awaited_by.append(self)

    def resolved(self, error: Exception | None) -> None:
        """Record that one of the copies is in the journal, or why it is not."""
        self._record_error(error)
        self.number -= 1
        if not self.number:
            self.all_done()

    def _record_error(self, error: Exception | None) -> None:
        if error is not None and (self.error is None or isinstance(self.error, JournalFull)):
            self.error = error


class AwaitedPart(AwaitedCopies):
    """The queued copies of one part of what is collected. `done` is set when none of them is queued any more."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        super().__init__()
        self.done = asyncio.Event()

    def all_done(self) -> None:
        self.done.set()


class PendingCopy:
    """A copy that is queued for a commit of the journal. It is the receipt of its write there.

    slot: of its key
    released: True if it is to be removed as soon as it is in the journal
    confirmed: False if its slot was begun after it was sent
    epoch: of this node's ring when it was taken
    awaited_by: those that wait until it is in the journal, or will not be
    error: why it is not in the journal, as far as is known; None without
    """

    __slots__ = ("_done", "awaited_by", "confirmed", "copy", "epoch", "error", "key", "released", "slot")

    def __init__(self, key: bytes, slot: int, copy: Copy, epoch: int) -> None:
        self.key = key
        self.slot = slot
        self.copy = copy
        self.epoch = epoch
        self.released = False
        self.confirmed = True
        self.awaited_by: list[AwaitedCopies] = []
        self.error: Exception | None = None
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, result: None, /) -> None:
        """Record that it is in the journal."""
        self._done = True
        for each in self.awaited_by:
            each.resolved(None)

    def set_exception(self, error: Exception, /) -> None:
        """Record why it is not in the journal, as far as is known."""
        self._done, self.error = True, error
        for each in self.awaited_by:
            each.resolved(error)
