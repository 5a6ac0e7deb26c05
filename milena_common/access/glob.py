"""Pure. Glob patterns as Redis has them: `*`, `?`, `[abc]`, `[a-z]`, `[^a]`, and `\\` to escape the next character.

A pattern is split at its stars, and each piece is searched from the end of the match of the piece before it. The
first match of a piece leaves the most for those after it, so there is no backtracking: the time is at most pattern
length times text length, while backtracking takes exponential time for patterns like `*a*a*a*b`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from milena_common.api.errors import InvalidRequest

MAX_BYTES = 4096


class Glob:
    """A compiled pattern. `literal` is the prefix of every text that matches."""

    def __init__(self, pattern: bytes) -> None:
        """Compile `pattern`. Raises InvalidRequest if it is longer than MAX_BYTES."""
        if len(pattern) > MAX_BYTES:
            raise InvalidRequest(f"pattern: has {len(pattern)} bytes; allowed are at most {MAX_BYTES}")
        pieces: list[list[bytes]] = [[]]
        literal = bytearray()
        plain = True
        at = 0
        while at < len(pattern):
            byte = pattern[at : at + 1]
            if byte == b"*":
                plain = False
                pieces.append([])
            elif byte == b"?":
                plain = False
                pieces[-1].append(b"[\\x00-\\xff]")
            elif byte == b"[":
                plain = False
                piece, at = _class(pattern, at + 1)
                pieces[-1].append(piece)
            else:
                if byte == b"\\" and at + 1 < len(pattern):
                    at += 1
                    byte = pattern[at : at + 1]
                pieces[-1].append(re.escape(byte))
                if plain:
                    literal += byte
            at += 1
        self.literal = bytes(literal)
        self._matches = _matcher([b"".join(piece) for piece in pieces], list(map(len, pieces)))

    def matches(self, text: bytes) -> bool:
        return self._matches(text)


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """Return the character class that begins at `at` as a regular expression, and the position of its end."""
    inverted = pattern[at : at + 1] == b"^"
    if inverted:
        at += 1
    members: set[int] = set()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            at += 1
            members.add(pattern[at])
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))
            members.update(range(low, high + 1))
            at += 2
        else:
            members.add(pattern[at])
        at += 1
    if inverted:
        members = set(range(256)) - members
    if not members:
        return b"(?!)", at
    return b"[" + b"".join(b"\\x%02x" % member for member in sorted(members)) + b"]", at


def _matcher(pieces: list[bytes], sizes: list[int]) -> Callable[[bytes], bool]:
    """Return a function that matches a text against the pieces between the stars; `sizes` are their lengths."""
    first, *others = [re.compile(piece) for piece in pieces]
    if not others:
        return lambda text: len(text) == sizes[0] and first.match(text) is not None
    *between, last = others

    def matches(text: bytes) -> bool:
        if len(text) < sum(sizes) or not first.match(text):
            return False
        end = sizes[0]
        for piece in between:
            found = piece.search(text, end)
            if found is None:
                return False
            end = found.end()
        start = len(text) - sizes[-1]
        return start >= end and last.match(text, start) is not None

    return matches
