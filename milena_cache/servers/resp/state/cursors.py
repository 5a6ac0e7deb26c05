"""Pure. Where scans go on: SCAN's cursors are numbers, S3's are texts.

A cursor is good for several calls, so that one whose answer was lost can be asked again. Those that nobody came
back for are forgotten, the oldest first when there are too many.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_CURSORS = 1000
SECONDS = 600.0


class Place(NamedTuple):
    """Where a scan goes on: S3's cursor, for keys that begin with `prefix`, behind the key `last`."""

    prefix: bytes
    cursor: str
    last: bytes


class Cursors:
    """The places of one node's scans by number. `first` should be greater than any number of an earlier process."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._places: dict[int, tuple[float, Place]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, place: Place, now: float) -> int:
        """The number for `place`; `now` is monotonic seconds."""
        number = self._next
        self._next += 1
        self._places[number] = (now + SECONDS, place)
        self._drop_expired(now)
        return number

    def find(self, number: int, now: float) -> Place | None:
        """The place; None if it is not known, or not any more."""
        self._drop_expired(now)
        found = self._places.pop(number, None)
        if found is None:
            return None
        self._places[number] = (now + SECONDS, found[1])
        return found[1]

    def _drop_expired(self, now: float) -> None:
        """The places are in the order in which their time ends."""
        while self._places:
            number, (until, _) = next(iter(self._places.items()))
            if until > now and len(self._places) <= MAX_CURSORS:
                return
            del self._places[number]
