"""Coordination. SLOWLOG: the commands that took long, the newest first.

The time is that from a command's coming to its answer, so a read that waits for S3 is slow as its caller sees it.
Redis counts only what a command computes. Hits that are answered many at once never get here, not even with a
threshold of 0: nothing is slow about them.

The log is bounded by number and by bytes, and a long answer is made in parts, with others' turns in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from milena_cache.servers.resp.dispatch.command import Command, Refused, integer
from milena_cache.servers.resp.dispatch.subcommands import bare, wrong_form
from milena_common.resp.encoding import OK, Pieces, Raw, encode

if TYPE_CHECKING:
    from milena_cache.servers.resp.dispatch.session import Session
    from milena_cache.servers.resp.state.context import Context

# What is kept of a command: so many words, and so many bytes of each.
MOST_WORDS = 32
MOST_BYTES = 128
# What `slowlog-max-len` may be, and how many bytes of words and names all entries have: the oldest go beyond that.
MAX_ENTRIES = 10_000
MAX_LOG_BYTES = 2**20
# Entries of an answer that are encoded before others have their turn: about 1 ms of work.
ENCODED_AT_ONCE = 64
DEFAULT_COUNT = 10
NO_COUNT = "ERR count should be greater than or equal to -1"


class SlowCommand(NamedTuple):
    """`at` in seconds since 1970, `took` in microseconds."""

    id: int
    at: int
    took: int
    words: list[bytes]
    addr: str
    name: str


class SlowLog:
    """At most `max_len` commands that took `slower_than` microseconds or more; a negative number: none.

    `bytes` are those of their words and of their clients' names.
    """

    def __init__(self, slower_than: int = 10_000, max_len: int = 128) -> None:
        self.slower_than = slower_than
        self.max_len = max_len
        self.bytes = 0
        self._entries: deque[SlowCommand] = deque()
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def resize(self, max_len: int) -> None:
        """Keep at most `max_len` entries from now on, which is at most MAX_ENTRIES."""
        self.max_len = max_len
        self._trim()

    def add(self, at: float, took: float, words: list[bytes], addr: str, name: str) -> None:
        """`at` in seconds since 1970, `took` in seconds."""
        name = name[:MOST_BYTES]
        entry = SlowCommand(self._next, int(at), round(took * 1e6), _trimmed(words), addr, name)
        self._next += 1
        self._entries.appendleft(entry)
        self.bytes += _size(entry)
        self._trim()

    def _trim(self) -> None:
        while len(self._entries) > self.max_len or self.bytes > MAX_LOG_BYTES:
            self.bytes -= _size(self._entries.pop())

    def newest(self, number: int) -> list[SlowCommand]:
        """At most `number` of them; a negative number: all."""
        return list(self._entries) if number < 0 else list(islice(self._entries, number))

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0


def _size(entry: SlowCommand) -> int:
    return sum(map(len, entry.words)) + len(entry.addr) + len(entry.name)


def _trimmed(words: list[bytes]) -> list[bytes]:
    kept = words if len(words) <= MOST_WORDS else words[: MOST_WORDS - 1]
    shown = [
        word if len(word) <= MOST_BYTES else b"%b... (%d more bytes)" % (word[:MOST_BYTES], len(word) - MOST_BYTES)
        for word in kept
    ]
    if len(words) > len(kept):
        shown.append(b"... (%d more arguments)" % (len(words) - len(kept)))
    return shown


def get(context: Context, session: Session, words: list[bytes]) -> Any:
    if len(words) > 3:
        raise wrong_form("slowlog", words[1])
    number = integer(words[2], NO_COUNT) if len(words) == 3 else DEFAULT_COUNT
    if number < -1:
        raise Refused(NO_COUNT)
    found = context.slow.log.newest(number)
    return found if len(found) <= ENCODED_AT_ONCE else _in_parts(found, session.protocol)


async def _in_parts(found: list[SlowCommand], protocol: int) -> Pieces:
    pieces = [b"*%d\r\n" % len(found)]
    for start in range(0, len(found), ENCODED_AT_ONCE):
        pieces += [encode(entry, protocol) for entry in found[start : start + ENCODED_AT_ONCE]]
        await asyncio.sleep(0)
    return Pieces(pieces)


def length(context: Context, session: Session, words: list[bytes]) -> int:
    return len(context.slow.log)


def reset(context: Context, session: Session, words: list[bytes]) -> Raw:
    context.slow.log.clear()
    return Raw(OK)


ADMIN = ("admin", "loading", "stale")
COMMANDS = (
    Command("slowlog", bare, -2, group="server", since="2.2.12", summary="A container for slow log commands."),
    Command(
        "slowlog|get",
        get,
        -2,
        flags=ADMIN,
        group="server",
        since="2.2.12",
        complexity="O(N) where N is the number of entries returned",
        usage="[<count>]",
        summary="Returns the slow log's newest entries: id, time, microseconds, words, client's address and name.",
    ),
    Command(
        "slowlog|len",
        length,
        2,
        flags=ADMIN,
        group="server",
        since="2.2.12",
        summary="Returns the number of entries in the slow log.",
    ),
    Command(
        "slowlog|reset",
        reset,
        2,
        flags=ADMIN,
        group="server",
        since="2.2.12",
        complexity="O(N) where N is the number of entries in the slowlog",
        summary="Clears all entries from the slow log.",
    ),
)
