"""Coordination. The seam to what makes a write durable before it is acknowledged.

    class     durable by
    back      a `Durable`: the record in this node's journal and, in a ring with copies, in those of the slot's
              holders (`milena_cache.copies.replicated`)
    memory    nothing
    through   S3, which has the write itself (`write_through`)

The writes know this Protocol alone, so an implementation may ask for more than one journal before a write is done,
and its callers stay as they are. Where a write cannot be made durable, `rejection` or NotDurable has it go through
S3 instead, and an error of the API refuses it. `tests/contracts/test_durable.py` holds implementations to this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, TypeVar

from milena_cache.journal.record import Record
from milena_cache.objects.version import Version
from milena_cache.objects.write_request import NotDurable, OnDone, Receipt
from milena_cache.writeback.releases import Releases

T = TypeVar("T")


class NotCopied(NotDurable):
    """A write is not in enough journals, and must not be acknowledged. A journal may still have it.

    why: for people
    """

    reason = "copies_missing"

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Durable(Releases, Protocol[T]):
    """Makes writes durable. `T` is what a write is known as to its caller."""

    def rejection(self, key: bytes) -> str:
        """Return why no write of a cache key can be made durable now, as NotDurable's `reason`.

        Returns "" if it can be tried, or is to be refused.
        """

    def next_version(self, owned_since: int) -> Version:
        """Return the version of a write that begins now, greater than all before, whatever its class."""

    def next_versions(self, owned_since: int, number: int) -> Version:
        """Return what the first of `number` calls of `next_version` would; the others' have the `seq` after it."""

    def append(self, record: Record, token: T, on_done: OnDone[T], timeout: float) -> asyncio.Future[None]:
        """Make `record` durable; records are appended in the order of their versions.

        `on_done(token, durable)` is called once for each, for those of a key in the order of the appends, and
        before anything that waits for the future runs: so a durable write is a dirty entry before its caller or a
        reader goes on, also if its caller has given up. It returns why a durable write must not be acknowledged.

        The future raises NotDurable if nothing of the write is left; NotCopied; DeadlineExceeded after `timeout`
        seconds, when `on_done` is still to come; Unavailable if the implementation fails for good, when a restart
        may find the write durable, or if this node may not acknowledge writes any more, which is then known of a
        durable write.
        Raises Unavailable itself if the implementation has failed before, or refuses the write.
        """

    def append_all(
        self,
        records: Sequence[Record],
        tokens: Sequence[T],
        on_done: OnDone[T],
        timeout: float,
    ) -> list[asyncio.Future[None]]:
        """Make records of different keys durable together: a crash leaves all of them or none.

        The futures are as `append` returns them. Those of one slot come out alike, and their `on_done` are called
        in one step of the event loop.
        """

    def append_for(self, receipt: Receipt, record: Record, token: T, on_done: OnDone[T], timeout: float) -> None:
        """Do what `append` does, with `receipt` in place of the future."""

    async def wait_commit(self) -> None:
        """Return when some of the appended writes are done."""
