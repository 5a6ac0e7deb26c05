"""Coordination. A commit of the journal, the writes that wait for one, and the records that leave with one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from milena_cache.journal.disk import Disk
from milena_common.api.errors import Unavailable

T = TypeVar("T")


class JournalFull(Exception):
    """There is no room in the journal; the write was not made."""


class JournalFailed(Unavailable):
    """The journal's disk failed; the node stops."""


class QueuedWrite(NamedTuple, Generic[T]):
    seq: int
    raw: bytes
    token: T
    on_done: Callable[[T, bool], None]
    future: asyncio.Future[None]
    deadline: float

    def fail(self, error: Exception) -> None:
        self.on_done(self.token, False)
        if not self.future.done():
            self.future.set_exception(error)


class Commit(NamedTuple, Generic[T]):
    """A commit under way, or the failure with which it began."""

    batch: list[QueuedWrite[T]]
    deferred: list[Callable[[Disk], None]]
    barriers: list[asyncio.Future[None]]
    committing: Awaitable[None] | Exception
    started: float


class Leaving:
    """By key, how many records are to be taken out and may still be in the file."""

    def __init__(self) -> None:
        self._keys: dict[bytes, int] = {}
        self._removed: list[bytes] = []

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def add(self, key: bytes) -> None:
        """One more is to be taken out."""
        self._keys[key] = self._keys.get(key, 0) + 1

    def removed(self, key: bytes) -> None:
        """One has been taken out, if the commit succeeds."""
        self._removed.append(key)

    def committed(self) -> None:
        """The commit has succeeded."""
        for key in self._removed:
            pending = self._keys[key] - 1
            if pending:
                self._keys[key] = pending
            else:
                del self._keys[key]
        self._removed.clear()

    def rolled_back(self) -> None:
        """It has not."""
        self._removed.clear()
