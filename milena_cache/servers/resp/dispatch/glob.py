"""Pure. Patterns as Redis has them: `*`, `?`, `[abc]`, `[a-z]`, `[^a]`; `\\` before what shall stand for itself.

A pattern is cut at its stars, and each piece is looked for from where the one before it ended. The first place
where a piece fits is as good as any later one, so nothing is tried twice, and no pattern takes long.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from milena_cache.servers.resp.dispatch.command import CommandError

MAX_BYTES = 4096


class Glob:
    """A pattern, ready for many texts. `literal` is what every text that fits begins with."""

    def __init__(self, pattern: bytes) -> None:
        """Raises Refused for a pattern that is longer than MOST_BYTES."""
        if len(pattern) > MAX_BYTES:
            raise CommandError(f"ERR pattern: has {len(pattern)} bytes; allowed are at most {MAX_BYTES}")
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
    """The class that begins at `at`, as a regular expression, and the place of its end."""
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
    """`sizes`: how many bytes each of the pieces takes."""
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
