"""Pure. Splits what a server of the Redis protocol sends into replies, without decoding them.

It is for processes that pass replies on: they stay the bytes that the server sent. Nothing is allocated for lengths
that were announced, and an incomplete reply is looked at again only when the bytes that it announced are there.
"""

from __future__ import annotations

from typing import Final

# Bytes of a line: a header, a number or an error.
MAX_LINE: Final = 64 * 1024
_BULKS: Final = frozenset(b"$!=")
_LINES: Final = frozenset(b"+-:_#,(")
_ARRAYS: Final = frozenset(b"*~>")
_MAP: Final = ord("%")
_BULK: Final = ord("$")


class ReplySplitter:
    """The replies of one connection."""

    __slots__ = ("_chunks", "_held", "_need")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._held = 0  # bytes of `_chunks`, which are the beginning of a reply
        self._need = 0  # it is not complete before it has so many bytes

    @property
    def held(self) -> int:
        """Return how many bytes of an incomplete reply are kept."""
        return self._held

    def feed(self, data: bytes) -> list[bytes]:
        """Return the replies that `data` completes. Raises ValueError for bytes that are no reply."""
        if self._held:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._need:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._held = 0
        replies = []
        at, size = 0, len(data)
        find = data.find
        while at < size:
            after = 0
            if data[at] == _BULK and (end := find(b"\r\n", at, at + 24)) > 0:
                length = int(data[at + 1 : end])
                after = end + length + 4 if length >= 0 else end + 2
            else:
                after = end_of(data, at)
            if after > size:
                self._chunks.append(data[at:] if at else data)
                self._held = size - at
                self._need = after - at
                break
            replies.append(data[at:after])
            at = after
        return replies


def end_of(data: bytes, at: int) -> int:
    """Return the end of the reply that begins at `at`; if it is incomplete, an offset that it reaches at least.

    That is behind the end of `data`. Raises ValueError for bytes that are no reply.
    """
    size = len(data)
    remaining = 1
    while remaining:
        if at >= size:
            return at + 1
        kind = data[at]
        end = data.find(b"\r\n", at, at + MAX_LINE)
        if end < 0:
            if size - at >= MAX_LINE:
                raise ValueError("a line of a reply is too long")
            return size + 1
        remaining -= 1
        if kind in _LINES:
            at = end + 2
            continue
        length = int(data[at + 1 : end])
        at = end + 2
        if kind in _BULKS:
            at += length + 2 if length >= 0 else 0
        elif kind in _ARRAYS:
            remaining += max(0, length)
        elif kind == _MAP:
            remaining += 2 * max(0, length)
        else:
            raise ValueError(f"no reply begins with {chr(kind)!r}")
    return at
