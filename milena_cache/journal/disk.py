"""Pure. The Protocol of the journal's disk. `lmdb_disk` implements it; tests have one that fails on demand.

A disk has one open transaction at a time, which the event loop fills and `commit` makes durable. After an error the
transaction can only be rolled back, so that no commit contains half of a batch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol


class CannotOpen(Exception):
    """The directory cannot be made, locked or read."""


class DiskFull(Exception):
    """There is no room. Committed records are safe, and there may be room later."""


class DiskFailed(Exception):
    """A write or sync failed. Committed records are safe; the state of later ones is unknown."""


class Disk(Protocol):
    """Numbered records in transactions. The first call of `roll_back` begins the first transaction.

    Methods that change the file raise DiskFull or DiskFailed, and then the transaction can only be rolled back.
    While `commit` or `roll_back` runs, only `read_record` may be called.
    """

    def put_record(self, seq: int, raw: bytes) -> None:
        """Add a record; `seq` is greater than all before."""

    def remove_record(self, seq: int) -> None:
        """Remove a record, if it is there."""

    def reject_record(self, seq: int, reason: str, at: float) -> None:
        """Record that S3 rejected the write permanently, for `reason`, at `at` (seconds since 1970)."""

    def clear_rejection(self, seq: int) -> None:
        """Record that the write is to overwrite S3's object; stored as a rejection without a reason."""

    def quarantine(self, seq: int) -> None:
        """Move a damaged record to the quarantine."""

    def drop_quarantined(self) -> None:
        """Delete all quarantined records."""

    def put_tombstone(self, number: int, raw: bytes) -> None:
        """Add a tombstone, in a table of its own, or replace the one of that number."""

    def remove_tombstone(self, number: int) -> None:
        """Remove a tombstone, if it is there."""

    def set_metadata(self, name: str, text: str) -> None:
        """Store `text` under `name`."""

    def read_record(self, seq: int) -> bytes | None:
        """Return the bytes of a committed record; None if there is none of that number."""

    def read_records(self, seqs: Sequence[int]) -> dict[int, bytes]:
        """Return the bytes of those of the committed records `seqs` that exist, by number, as of one moment."""

    def commit(self) -> Awaitable[None]:
        """Commit durably, and begin the next transaction; it has begun when this returns."""

    async def roll_back(self) -> None:
        """Discard the transaction, and begin the next."""

    def metadata(self) -> dict[str, str]: ...

    def records(self, after: int, limit: int) -> Sequence[tuple[int, memoryview | bytes]]:
        """Return at most `limit` records with numbers above `after`, in order; before the first transaction."""

    def rejections(self) -> dict[int, tuple[str, float]]:
        """Return the reason and time (seconds since 1970) of every rejection, by record number."""

    def tombstones(self) -> Sequence[tuple[int, bytes]]:
        """Return the committed tombstones by number, in order."""

    def damaged(self) -> int:
        """Return the number of quarantined records."""

    @property
    def used_bytes(self) -> int: ...

    async def close(self) -> None:
        """Discard the transaction, and release the directory."""
