"""Pure. The seam to the journal's disk. `journal_lmdb` is the real one; tests have one that fails on demand."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol


class CannotOpen(Exception):
    """The directory cannot be made, locked or read."""


class DiskFull(Exception):
    """There is no room. What was committed before is safe, and there may be room later."""


class DiskFailed(Exception):
    """A write or sync failed. What was committed before is safe; what comes after cannot be known."""


class Disk(Protocol):
    """Numbered records in transactions. Until `roll_back` was called once, there is none, and nothing can be
    changed.

    What changes the file raises DiskFull or DiskFailed, and then the transaction can only be rolled back. While
    `commit` or `roll_back` runs, only `read_record` may be called.
    """

    def put_record(self, seq: int, raw: bytes) -> None:
        """Add a record; numbers grow."""

    def remove_record(self, seq: int) -> None:
        """Take out a record, if it is there."""

    def reject_record(self, seq: int, reason: str, at: float) -> None:
        """Note that S3 refused the record for good."""

    def clear_rejection(self, seq: int) -> None:
        """Note that it shall be tried again over whatever S3 holds: a refusal without a reason."""

    def quarantine(self, seq: int) -> None:
        """Keep a damaged record apart from the others."""

    def drop_quarantined(self) -> None:
        """Take out all records that were set aside."""

    def set_metadata(self, name: str, text: str) -> None:
        """Keep `text` under `name`."""

    def read_record(self, seq: int) -> bytes | None:
        """A committed record."""

    def commit(self) -> Awaitable[None]:
        """Commit durably, and begin the next transaction; it has begun when this returns."""

    async def roll_back(self) -> None:
        """Abandon the transaction, and begin the next."""

    def metadata(self) -> dict[str, str]: ...

    def records(self, after: int, limit: int) -> Sequence[tuple[int, memoryview | bytes]]:
        """At most `limit` records above number `after`, in order, before the first transaction."""

    def rejections(self) -> dict[int, tuple[str, float]]:
        """Reason and time (seconds since 1970) of every refusal, by number."""

    def damaged(self) -> int:
        """How many records have been set aside."""

    @property
    def used_bytes(self) -> int: ...

    async def close(self) -> None:
        """Let go of the directory."""
