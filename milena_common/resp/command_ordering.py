"""Pure. Conflicts between the commands of one connection: which may be in flight together, and which must wait.

As with a readers-writer lock for each key, but with writes together too: reads of a key do not conflict, and writes
of a key do not, because the node orders those itself. A command that reads and writes conflicts with every other
one.

A command that conflicts is parked, and holds up only commands on the same keys. Holding up all behind it would be
simpler, but a pipeline of SET a, GET a, SET b, GET b, … would then wait for the disk once for each key, and the end
of a long one be rejected for its age.

Behind a parked command all commands on its keys are parked too, even if they do not conflict with one in flight:
(1) GET k is in flight; (2) SET k is parked behind it; (3) a second GET k does not conflict with the first, but if
it began now it would return the value from before the SET that the client sent before it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from milena_common.build import interpreted

# What a command does to its keys, for the order in which the commands of one connection take effect.
Access = Literal["none", "read", "write", "modify"]

T = TypeVar("T")

# By the access of the command that is to begin: the accesses that must not be in flight on the same key.
_EXCLUDES: dict[Access, tuple[Access, ...]] = {
    "none": (),
    "read": ("write", "modify"),
    "write": ("read", "modify"),
    "modify": ("read", "write", "modify"),
}


@interpreted
@dataclass(frozen=True, slots=True, eq=False)
class _Parked(Generic[T]):
    """A parked command; its `keys` are distinct."""

    item: T
    access: Access
    keys: tuple[bytes, ...]


class CommandOrdering(Generic[T]):
    """The keys of the commands in flight, by access, and the parked commands. T is the caller's parked command.

    parked: how many commands are parked; the caller bounds them
    freed: keys whose first parked command may be ready to begin; without any, `next_ready` has none to return
    """

    def __init__(self) -> None:
        self.parked = 0
        self._keys: dict[Access, dict[bytes, int]] = {"none": {}, "read": {}, "write": {}, "modify": {}}
        self._queues: dict[bytes, deque[_Parked[T]]] = {}  # by key, in the order of the commands
        self.freed: dict[bytes, None] = {}

    def has(self, access: Access) -> bool:
        """True if a command of this access is in flight."""
        return bool(self._keys[access])

    def conflicts(self, access: Access, keys: list[bytes]) -> bool:
        """True if a command must wait for one that is in flight or parked."""
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
        """Add a command that has begun."""
        busy = self._keys[access]
        for key in keys:
            busy[key] = busy.get(key, 0) + 1

    def remove(self, access: Access, keys: list[bytes]) -> None:
        """Remove a command that has its reply."""
        busy = self._keys[access]
        for key in keys:
            remaining = busy[key] - 1
            if remaining:
                busy[key] = remaining
            else:
                del busy[key]
                if self.parked and key in self._queues:
                    self.freed[key] = None

    def park(self, item: T, access: Access, keys: list[bytes]) -> None:
        """Park a command that conflicts; `next_ready` returns `item` when it may begin."""
        parked = _Parked(item, access, tuple(dict.fromkeys(keys)))
        for key in parked.keys:
            self._queues.setdefault(key, deque()).append(parked)
        self.parked += 1

    def next_ready(self) -> T | None:
        """Remove and return a parked command that may begin; None if there is none.

        It is the first in the queues of all its keys. The caller must begin it before it calls anything else here:
        until it is added as one in flight, a conflicting command would not wait for it.
        """
        while self.freed:
            key = next(iter(self.freed))
            queue = self._queues.get(key)
            if queue is None or not self._may_begin(first := queue[0]):
                del self.freed[key]
                continue
            for each in first.keys:
                behind = self._queues[each]
                behind.popleft()
                if behind:
                    self.freed[each] = None
                else:
                    del self._queues[each]
            self.parked -= 1
            return first.item
        return None

    def _may_begin(self, parked: _Parked[T]) -> bool:
        if any(self._queues[key][0] is not parked for key in parked.keys):
            return False
        return not self._excluded(parked.access, parked.keys)
