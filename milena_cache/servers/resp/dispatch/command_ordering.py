"""Pure. Which commands of one connection may be under way together: those that do not change what others see.

Reads of a key go together, and writes of a key go together, because the node orders those by itself. A command that
reads and writes goes alone.
"""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.command import Access

# What must not be under way on the same key, by what is to begin.
_EXCLUDES: dict[Access, tuple[Access, ...]] = {
    "none": (),
    "read": ("write", "modify"),
    "write": ("read", "modify"),
    "modify": ("read", "write", "modify"),
}


class CommandOrdering:
    """The keys of the commands under way, by what those do."""

    def __init__(self) -> None:
        self._keys: dict[Access, dict[bytes, int]] = {"none": {}, "read": {}, "write": {}, "modify": {}}

    def conflicts(self, access: Access, keys: list[bytes]) -> bool:
        """Whether a command must wait for one that is under way."""
        for other in _EXCLUDES[access]:
            busy = self._keys[other]
            if busy and any(key in busy for key in keys):
                return True
        return False

    def add(self, access: Access, keys: list[bytes]) -> None:
        busy = self._keys[access]
        for key in keys:
            busy[key] = busy.get(key, 0) + 1

    def remove(self, access: Access, keys: list[bytes]) -> None:
        busy = self._keys[access]
        for key in keys:
            remaining = busy[key] - 1
            if remaining:
                busy[key] = remaining
            else:
                del busy[key]
