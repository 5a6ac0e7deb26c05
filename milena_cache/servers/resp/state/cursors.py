"""Pure. The positions of scans by number: SCAN's cursors are numbers, those of listings are strings.

A cursor may be used several times, so that a call whose reply was lost can be repeated. Cursors expire SECONDS
after their last use; beyond MAX_CURSORS the one that was used longest ago goes first.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_CURSORS = 1000
# Seconds from the last use of a cursor until it expires.
SECONDS = 600.0


class Place(NamedTuple):
    """The position at which a scan continues.

    prefix: the prefix of the listing
    cursor: the listing's cursor for the next page; of another node: its SCAN's
    owners: of the slots, as `OtherNodes` has them, whose nodes are scanned one after the other; 0: only this node
    node: the address of the other node that is scanned, "" for this one
    """

    prefix: bytes
    cursor: str
    owners: int = 0
    node: str = ""


class Cursors:
    """The positions of one node's scans by number.

    `first`: the first number; greater than any of an earlier process, whose cursors clients may still hold
    """

    def __init__(self, first: int) -> None:
        self._next = first
        self._places: dict[int, tuple[float, Place]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, place: Place, now: float) -> int:
        """Keep `place`, and return its number; `now` is monotonic seconds."""
        number = self._next
        self._next += 1
        self._places[number] = (now + SECONDS, place)
        self._drop_expired(now)
        return number

    def find(self, number: int, now: float) -> Place | None:
        """Return the position, and extend its life; None if unknown or expired. `now` is monotonic seconds."""
        self._drop_expired(now)
        found = self._places.pop(number, None)
        if found is None:
            return None
        self._places[number] = (now + SECONDS, found[1])
        return found[1]

    def _drop_expired(self, now: float) -> None:
        # The dictionary is in the order of expiry, since each use moves a position to its end.
        while self._places:
            number, (until, _) = next(iter(self._places.items()))
            if until > now and len(self._places) <= MAX_CURSORS:
                return
            del self._places[number]
