"""Pure. The Protocol of what holds the state of a ring for several routers.

It has one state, and records by name: each node's last renewal, under its address. Every change has a revision,
which grows; 0 is the revision of what does not exist.

After an error a change may have been made, or may still be made: the caller reads before it decides anything.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

# Records in one change, and comparisons of records with it: etcd takes 128 of both.
MAX_RECORDS = 100


class Record(NamedTuple):
    """A value, and the revision of its last change."""

    value: bytes
    revision: int


ABSENT = Record(b"", 0)


class Snapshot(NamedTuple):
    """Everything, at `revision`."""

    revision: int
    state: Record
    records: Mapping[str, Record]


class Update(NamedTuple):
    """What has changed up to `revision`: `state` is None if it has not; what was removed is ABSENT."""

    revision: int
    state: Record | None
    records: Mapping[str, Record]


@dataclass(frozen=True)
class Write:
    """A change of everything in it, or of nothing.

    expected: the revision that the state must have
    state: the new one, None to leave it as it is
    records: new values by name, None to remove one; at most MAX_RECORDS
    unchanged: revisions by name that records must have; at most MAX_RECORDS
    """

    expected: int
    state: bytes | None = None
    records: Mapping[str, bytes | None] = field(default_factory=dict)
    unchanged: Mapping[str, int] = field(default_factory=dict)


class RingStore(Protocol):
    """Shared by all routers of one ring. Every method raises Unavailable, within its `timeout` in seconds."""

    async def read(self, timeout: float) -> Snapshot:
        """Return what is there: every change that was made before this call is in it."""

    async def write(self, change: Write, timeout: float) -> int | None:
        """Make `change`, and return its revision; None if the state or a record has another revision."""

    def follow(self, revision: int) -> AsyncGenerator[Update, None]:
        """Yield the changes from `revision` on, in their order, until an error; none is left out.

        Those with revision 0 have no change: they confirm that the store follows.
        """

    async def close(self) -> None:
        """End the connection."""
