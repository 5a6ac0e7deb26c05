"""Pure. A queue of keys, first in, first out, that can be walked through in parts while it changes.

The keys are in blocks, which are numbered. A walk goes from block to block by number, so that what is appended or
taken between two of its steps moves none of the keys that it has yet to visit. An iterator of a dictionary or a
deque ends with the first change, and a copy of a million keys holds up the event loop for 10 to 30 ms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

# Keys of a block.
BLOCK_KEYS: Final = 512


class _Walk:
    """A walk in progress: the block that it visits next, the one where it ends, and what was taken of those
    between."""

    def __init__(self, number: int, end: int) -> None:
        self.number = number
        self.end = end
        self.taken: list[bytes] = []


class KeyQueue:
    """The queue."""

    def __init__(self) -> None:
        self._walks: list[_Walk] = []
        self._first: list[bytes] = []
        self._last = self._first
        self._blocks: deque[list[bytes]] = deque([self._first])
        # The number of the first block, and how many of its keys were taken.
        self._number = 0
        self._taken = 0
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def append(self, key: bytes) -> None:
        """Put `key` at the end."""
        if len(self._last) == BLOCK_KEYS:
            self._last = []
            self._blocks.append(self._last)
        self._last.append(key)
        self._len += 1

    def popleft(self) -> bytes:
        """Take the first key. Raises IndexError if there is none."""
        if self._taken == len(self._first):
            raise IndexError("the queue is empty")
        key = self._first[self._taken]
        if self._walks:
            for walk in self._walks:
                if walk.number <= self._number < walk.end:
                    walk.taken.append(key)
        self._first[self._taken] = b""  # what the block keeps is not to keep the key
        self._taken += 1
        self._len -= 1
        if self._taken == BLOCK_KEYS:
            self._blocks.popleft()
            if not self._blocks:
                self._last = []
                self._blocks.append(self._last)
            self._first = self._blocks[0]
            self._number += 1
            self._taken = 0
        return key

    def __reversed__(self) -> Iterator[bytes]:
        """Iterate from the last key to the first; ends with the first block that is added or dropped."""
        for block in reversed(self._blocks):
            keys = block[self._taken :] if block is self._first else block
            yield from reversed(keys)

    def walk(self) -> Iterator[list[bytes]]:
        """Iterate over all keys in parts; the queue may be changed between two of them.

        Each key that is there from the beginning to the end of the walk is in a part, also if it is taken and put
        at the end meanwhile: what is taken before it was visited is in the next part. So the walk ends where the
        end was when it began, however fast keys move.
        """
        walk = _Walk(self._number, self._number + len(self._blocks))
        self._walks.append(walk)
        try:
            while walk.number < walk.end:
                if walk.number < self._number:
                    walk.number = self._number
                    continue
                block = self._blocks[walk.number - self._number]
                part = walk.taken + (block[self._taken :] if block is self._first else block)
                walk.taken = []
                walk.number += 1
                yield part
            if walk.taken:
                yield walk.taken
        finally:
            self._walks.remove(walk)
