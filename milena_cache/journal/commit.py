"""Coordination. A commit of the journal, the writes that are queued for one, and the removals that are pending.

These are the data of `group_commit`, which decides when to commit and what a failure means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from milena_cache.journal.disk import Disk
from milena_cache.objects.write_request import NotDurable, OnDone, Receipt
from milena_common.api.errors import Unavailable
from milena_common.build import interpreted

T = TypeVar("T")


@interpreted
class JournalFull(NotDurable):
    """There is no room in the journal; the write has not taken effect."""

    reason = "journal_full"


@interpreted
class JournalFailed(Unavailable):
    """The journal's disk failed; the node stops."""


@interpreted
class NotAcknowledged(Unavailable):
    """The write is durable, and must not be acknowledged: its outcome is unknown to the caller."""


class QueuedWrite(Generic[T]):
    """A write that is queued for a commit.

    seq, raw: the record's sequence number and bytes.
    token, on_done: `on_done(token, durable)` is called when the commit has ended.
    future: its receipt, done after `on_done`.
    deadline: the time of the event loop, in seconds, after which the future raises DeadlineExceeded.
    joined: True if it is of the same transaction as the write before it, and must be in the same commit.
    """

    __slots__ = ("deadline", "future", "joined", "on_done", "raw", "seq", "token")

    def __init__(
        self,
        seq: int,
        raw: bytes,
        token: T,
        on_done: OnDone[T],
        future: Receipt,
        deadline: float,
        joined: bool = False,
    ) -> None:
        self.seq = seq
        self.raw = raw
        self.token = token
        self.on_done = on_done
        self.future = future
        self.deadline = deadline
        self.joined = joined

    def fail(self, error: Exception) -> None:
        """Complete the write with `error`; it is not in the journal, as far as is known."""
        self.on_done(self.token, False)
        if not self.future.done():
            self.future.set_exception(error)


class Commit(NamedTuple, Generic[T]):
    """A commit in flight.

    batch, deferred, barriers: the writes and operations in it, and the barriers that end with it.
    committing: the disk's result, or the error that occurred while the transaction was filled.
    started: monotonic seconds.
    """

    batch: list[QueuedWrite[T]]
    deferred: list[Callable[[Disk], None]]
    barriers: list[asyncio.Future[None]]
    committing: Awaitable[None] | Exception
    started: float


class CommitObserver(Protocol):
    """Sees the commits of a journal, each once, in order."""

    def committed(self, batch: Sequence[QueuedWrite[Any]], seconds: float) -> None:
        """Called after a commit was synced, and before its writes are acknowledged.

        `batch` has its writes in the order of their versions, and none if the commit only took out records; `seq`
        and `raw` of each are for observers. `seconds` is how long the commit took. The writes wait meanwhile, so
        this must not block. It cannot keep them from being acknowledged: what it raises is logged.
        """


class Copying(Protocol):
    """Has the writes of commits copied to other nodes: what it keeps is acknowledged later than its commit."""

    def begun(self, batch: Sequence[QueuedWrite[Any]]) -> None:
        """Called when the commit with `batch` has begun. Must not raise."""

    def committed(self, batch: list[QueuedWrite[Any]]) -> list[QueuedWrite[Any]]:
        """Called after the commit was synced; return those of its writes that are complete.

        The others are completed by `Journal.complete`, or with their `fail`.
        """

    def rolled_back(self, batch: Sequence[QueuedWrite[Any]]) -> None:
        """Called when nothing of the commit has taken effect, before its writes fail."""


class Leaving:
    """Counts, by key, the records whose removal was requested and that may still be in the file."""

    def __init__(self) -> None:
        self._keys: dict[bytes, int] = {}
        self._removed: list[bytes] = []

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def add(self, key: bytes) -> None:
        """Count a removal of a record of `key` that was requested."""
        self._keys[key] = self._keys.get(key, 0) + 1

    def removed(self, key: bytes) -> None:
        """Record that the transaction contains a removal of a record of `key`."""
        self._removed.append(key)

    def committed(self) -> None:
        """Record that the transaction was committed: the removals in it are done."""
        for key in self._removed:
            pending = self._keys[key] - 1
            if pending:
                self._keys[key] = pending
            else:
                del self._keys[key]
        self._removed.clear()

    def rolled_back(self) -> None:
        """Record that the transaction was rolled back: the removals in it are pending again."""
        self._removed.clear()
