"""Pure. SLOWLOG: the commands that took long, the newest first.

The time is that from a command's coming to its answer, so a read that waits for S3 is slow as its caller sees it.
Redis counts only what a command computes. Hits that are answered many at once never get here, not even with a
threshold of 0: nothing is slow about them.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from milena_cache.doors.redis.command import Command, Refused, integer
from milena_cache.doors.redis.container import bare, wrong_form
from milena_common.resp import OK, Raw

if TYPE_CHECKING:
    from milena_cache.doors.redis.context import Context
    from milena_cache.doors.redis.session import Session

# What is kept of a command: so many words, and so many bytes of each.
MOST_WORDS = 32
MOST_BYTES = 128
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
    """At most `max_len` commands that took `slower_than` microseconds or more; a negative number: none."""

    def __init__(self, slower_than: int = 10_000, max_len: int = 128) -> None:
        self.slower_than = slower_than
        self._entries: deque[SlowCommand] = deque(maxlen=max_len)
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def max_len(self) -> int:
        return self._entries.maxlen or 0

    @max_len.setter
    def max_len(self, number: int) -> None:
        self._entries = deque(islice(self._entries, number), number)

    def add(self, at: float, took: float, words: list[bytes], addr: str, name: str) -> None:
        """`at` in seconds since 1970, `took` in seconds."""
        self._entries.appendleft(SlowCommand(self._next, int(at), round(took * 1e6), _trimmed(words), addr, name))
        self._next += 1

    def newest(self, number: int) -> list[SlowCommand]:
        """At most `number` of them; a negative number: all."""
        return list(self._entries) if number < 0 else list(islice(self._entries, number))

    def clear(self) -> None:
        self._entries.clear()


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
    return context.slow.log.newest(number)


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
