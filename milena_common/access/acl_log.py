"""Pure. The latest rejections, for ACL LOG: failed logins, denied commands and denied keys.

As in Redis, a rejection like one of the last 60 seconds adds to its count. The log is bounded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

MAX_ENTRIES: Final = 128
SAME_SECONDS: Final = 60.0
MAX_OBJECT: Final = 128

Reason = Literal["auth", "command", "key", "channel"]


@dataclass(slots=True)
class Rejection:
    """One kind of rejection.

    number: of the entry
    count: how often it has occurred
    what: the command, or the key, at most MAX_OBJECT characters; of a failed login "AUTH"
    created_at, updated_at: the first and the last time, seconds since 1970
    """

    number: int
    reason: Reason
    user: str
    what: str
    client: str
    created_at: float
    updated_at: float
    count: int = 1


class AclLog:
    """The latest rejections, the newest first. `now` in the methods is seconds since 1970."""

    def __init__(self) -> None:
        self.entries: deque[Rejection] = deque(maxlen=MAX_ENTRIES)
        self._next = 0

    def add(self, reason: Reason, user: str, what: str, client: str, now: float) -> None:
        """Record a rejection."""
        what = what[:MAX_OBJECT]
        for entry in self.entries:
            same = entry.reason == reason and entry.user == user and entry.what == what
            if same and now - entry.created_at < SAME_SECONDS:
                entry.count += 1
                entry.updated_at = now
                entry.client = client
                return
        self.entries.appendleft(Rejection(self._next, reason, user, what, client, now, now))
        self._next += 1

    def remove_all(self) -> None:
        """Remove all entries."""
        self.entries.clear()
