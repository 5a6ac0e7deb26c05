"""Pure. Which commands of one connection may be under way together: those that do not change what others see.

Reads of a key go together, and writes of a key go together, because the node orders those by itself. A command that
reads and writes goes alone.

A command that has to wait is parked, and holds up only what touches the same keys. Otherwise a pipeline of
SET a, GET a, SET b, GET b, … would wait for the disk once for each key, and the end of a long one would be refused
for its age. Behind a parked command everything about its keys is parked as well, in order: a GET that went past a
parked SET of the same key would be answered with what was there before.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from milena_cache.servers.resp.dispatch.command import Access

T = TypeVar("T")

# What must not be under way on the same key, by what is to begin.
_EXCLUDES: dict[Access, tuple[Access, ...]] = {
    "none": (),
    "read": ("write", "modify"),
    "write": ("read", "modify"),
    "modify": ("read", "write", "modify"),
}


@dataclass(frozen=True, slots=True, eq=False)
class _Parked(Generic[T]):
    """A command that waits. `keys`: each once."""

    item: T
    access: Access
    keys: tuple[bytes, ...]


class CommandOrdering(Generic[T]):
    """The keys of the commands under way, by what those do, and the commands that wait for them.

    `parked`: how many commands wait; the caller bounds them. T stands for a parked command.
    """

    def __init__(self) -> None:
        self.parked = 0
        self._keys: dict[Access, dict[bytes, int]] = {"none": {}, "read": {}, "write": {}, "modify": {}}
        self._queues: dict[bytes, deque[_Parked[T]]] = {}  # by key, in the order of the commands
        self._freed: dict[bytes, None] = {}  # keys whose first parked command may have become free to begin

    @property
    def may_have_ready(self) -> bool:
        """Whether it is worth it to call `next_ready`."""
        return bool(self._freed)

    def conflicts(self, access: Access, keys: list[bytes]) -> bool:
        """Whether a command must wait for one that is under way, or parked."""
        if self.parked and any(key in self._queues for key in keys):
            return True
        return self._excluded(access, keys)

    def _excluded(self, access: Access, keys: list[bytes] | tuple[bytes, ...]) -> bool:
        for other in _EXCLUDES[access]:
            busy = self._keys[other]
            if busy and any(key in busy for key in keys):
                return True
        return False

    def add(self, access: Access, keys: list[bytes]) -> None:
        """A command is under way."""
        busy = self._keys[access]
        for key in keys:
            busy[key] = busy.get(key, 0) + 1

    def remove(self, access: Access, keys: list[bytes]) -> None:
        """A command is under way no more."""
        busy = self._keys[access]
        for key in keys:
            remaining = busy[key] - 1
            if remaining:
                busy[key] = remaining
            else:
                del busy[key]
                if self.parked and key in self._queues:
                    self._freed[key] = None

    def park(self, item: T, access: Access, keys: list[bytes]) -> None:
        """A command that conflicts waits, for `next_ready` to return `item`."""
        parked = _Parked(item, access, tuple(dict.fromkeys(keys)))
        for key in parked.keys:
            self._queues.setdefault(key, deque()).append(parked)
        self.parked += 1

    def next_ready(self) -> T | None:
        """Return a parked command that may begin, the first of its keys, and take it for one that has begun.

        It counts neither as parked nor as under way then: the caller begins it at once, before anything else.
        None if there is no such command.
        """
        while self._freed:
            key = next(iter(self._freed))
            queue = self._queues.get(key)
            if queue is None or not self._may_begin(first := queue[0]):
                del self._freed[key]
                continue
            for each in first.keys:
                behind = self._queues[each]
                behind.popleft()
                if behind:
                    self._freed[each] = None
                else:
                    del self._queues[each]
            self.parked -= 1
            return first.item
        return None

    def _may_begin(self, parked: _Parked[T]) -> bool:
        if any(self._queues[key][0] is not parked for key in parked.keys):
            return False
        return not self._excluded(parked.access, parked.keys)
