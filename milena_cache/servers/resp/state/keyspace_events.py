"""Pure. Keyspace notifications: events of keys as messages to subscribers (notify-keyspace-events).

As in Redis Cluster they are only for the keys that this node owns, and for clients of this node. The events are
those of `milena_cache.memory.change_feed`: `set` for every write of a value, by whichever command, `del`, `expired`
when an expiry is noticed, and `evicted` when a copy leaves the memory, which S3 has still.
"""

from __future__ import annotations

from typing import Final

from milena_cache.configuration.config import EVENT_LETTERS
from milena_cache.memory.change_feed import ChangeFeed
from milena_common.pubsub.channels import Channels
from milena_common.resp.redis_replies import CommandError

# Redis's letters: K and E say where, the others what. A is all of those that are events of keys.
_ALL: Final = "g$lshzxetd"
_LETTER_OF: Final = {"set": "$", "del": "g", "expired": "x", "evicted": "e"}


class KeyspaceEvents:
    """The notifications of one node. `flags`: the letters as CONFIG GET shows them; "" for none."""

    def __init__(self, change_feed: ChangeFeed, channels: Channels) -> None:
        self._change_feed = change_feed
        self._channels = channels
        self.flags = ""
        self._events: frozenset[str] = frozenset()

    def configure(self, text: str) -> None:
        """Choose the events by the letters of notify-keyspace-events. Raises CommandError for any other one."""
        self.flags = flags_of(text)
        self._events = frozenset(name for name, letter in _LETTER_OF.items() if letter in expanded(self.flags))
        needed = self._events and ("K" in self.flags or "E" in self.flags)
        self._change_feed.on_event = self._happened if needed else None

    def _happened(self, name: str, key: bytes) -> None:
        if name not in self._events or not self._channels.subscribers:
            return
        event = name.encode()
        if "K" in self.flags:
            self._channels.deliver(b"__keyspace@0__:%b" % key, event)
        if "E" in self.flags:
            self._channels.deliver(b"__keyevent@0__:%b" % event, key)


def expanded(flags: str) -> str:
    """Return the letters with those that `A` stands for."""
    return flags.replace("A", _ALL)


def flags_of(text: str) -> str:
    """Return letters as Redis shows them, each once. Raises CommandError for one that does not exist."""
    if any(letter not in EVENT_LETTERS for letter in text):
        raise CommandError("Invalid event class character. Use '" + EVENT_LETTERS + "'.")
    letters = expanded(text)
    events = "A" if all(letter in letters for letter in _ALL) else "".join(each for each in _ALL if each in letters)
    return events + "".join(each for each in "KEmn" if each in text)
