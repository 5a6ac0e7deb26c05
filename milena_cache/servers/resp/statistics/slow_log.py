"""Pure. The slow log: the latest commands that took long, the newest first, bounded by number and by bytes.

Arguments are cut when they are recorded, so that the log keeps no large value in memory.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

# Arguments of a command that are kept, and bytes of each.
MAX_ARGUMENTS = 32
MAX_BYTES = 128
# The greatest `slowlog-max-len`, and the bytes of arguments and names in all entries: beyond that the oldest go.
MAX_ENTRIES = 10_000
MAX_LOG_BYTES = 2**20


class SlowCommand(NamedTuple):
    """An entry of the slow log.

    id: its number, growing
    at: when the command began, seconds since 1970
    took: microseconds
    argv: its arguments, cut to MAX_ARGUMENTS and MAX_BYTES
    addr, name: host:port and name of its client
    """

    id: int
    at: int
    took: int
    argv: list[bytes]
    addr: str
    name: str


class SlowLog:
    """The slow log of one node.

    slower_than: microseconds from which on a command is recorded; negative: none is
    max_len: how many entries are kept
    bytes: those of arguments, addresses and names in all entries
    """

    def __init__(self, slower_than: int = 10_000, max_len: int = 128) -> None:
        self.slower_than = slower_than
        self.max_len = max_len
        self.bytes = 0
        self._entries: deque[tuple[SlowCommand, int]] = deque()  # each with its bytes
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def resize(self, max_len: int) -> None:
        """Keep at most `max_len` entries from now on; at most MAX_ENTRIES is allowed."""
        self.max_len = max_len
        self._trim()

    def add(self, at: float, took: float, argv: list[bytes], addr: str, name: str) -> None:
        """Record a command that began at `at` (seconds since 1970) and took `took` seconds."""
        name = name[:MAX_BYTES]
        shown = _trimmed(argv)
        size = sum(map(len, shown)) + len(addr) + len(name)
        entry = SlowCommand(self._next, int(at), round(took * 1e6), shown, addr, name)
        self._entries.appendleft((entry, size))
        self._next += 1
        self.bytes += size
        self._trim()

    def _trim(self) -> None:
        while len(self._entries) > self.max_len or self.bytes > MAX_LOG_BYTES:
            self.bytes -= self._entries.pop()[1]

    def newest(self, number: int) -> list[SlowCommand]:
        """Return the newest `number` entries, or all if it is negative."""
        return [entry for entry, _ in (self._entries if number < 0 else islice(self._entries, number))]

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0


def _trimmed(argv: list[bytes]) -> list[bytes]:
    kept = argv if len(argv) <= MAX_ARGUMENTS else argv[: MAX_ARGUMENTS - 1]
    shown = [
        word if len(word) <= MAX_BYTES else b"%b... (%d more bytes)" % (word[:MAX_BYTES], len(word) - MAX_BYTES)
        for word in kept
    ]
    if len(argv) > len(kept):
        shown.append(b"... (%d more arguments)" % (len(argv) - len(kept)))
    return shown
