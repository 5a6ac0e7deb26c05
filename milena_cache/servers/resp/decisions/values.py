"""Pure. The objects of one command or transaction: as they were read, and as its commands have changed them.

Keys are cache keys. Nothing is written here: `changes` is what is to be written, when all commands have run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from milena_cache.objects.entry import Entry
from milena_cache.objects.expiry import NEVER
from milena_cache.reads.read_modify_write import DELETE, NewValue, Otherwise
from milena_cache.servers.resp.decisions.timestamps import as_ms, as_timestamp
from milena_common.api.keys import check_value_size
from milena_common.resp.redis_replies import CommandError

TOO_LONG = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"


class NothingDone(CommandError):
    """An error after which nothing may be written that the command, or its transaction, has decided."""


class Unread(Exception):
    """A command looks at an object that was not read, since the command before it was to replace it, and failed."""


class _State:
    """An object as the commands so far have left it.

    data: None if it does not exist
    expires_ms: milliseconds since 1970; 0 if it does not expire
    changed: True if it must be written; `new`: True if that is more than its expiry
    """

    __slots__ = ("changed", "data", "expires_ms", "new")

    def __init__(self, data: bytes | None, expires_ms: int) -> None:
        self.data = data
        self.expires_ms = expires_ms
        self.changed = False
        self.new = False


class Values:
    """The objects of a command or transaction.

    now_ms: the time for all of its commands, milliseconds since 1970
    max_bytes: of a value
    """

    def __init__(self, found: Mapping[bytes, Entry], now_ms: int, max_bytes: int) -> None:
        """`found`: the objects that were read. To look at another one that is not assigned yet raises Unread."""
        self.now_ms = now_ms
        self.max_bytes = max_bytes
        self._states = {
            key: _State(entry.value, as_ms(entry.expires_at) if entry.expires_at else 0)
            for key, entry in found.items()
        }

    def has(self, key: bytes) -> bool:
        """True if an object is one of those that were read."""
        return key in self._states

    def value_of(self, key: bytes) -> bytes | None:
        """Return the value of a key; None if it does not exist. Raises Unread."""
        state = self._states.get(key)
        if state is None:
            raise Unread
        return state.data

    def expires_ms(self, key: bytes) -> int:
        """Return when an object expires, in milliseconds since 1970; 0: never."""
        return self._states[key].expires_ms

    def assign(self, key: bytes, data: bytes, expires_ms: int = 0) -> None:
        """Store an object anew; if its expiry has passed, delete it. Raises InvalidRequest if it is too large."""
        if len(data) > self.max_bytes:
            check_value_size(len(data), self.max_bytes)
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _State(None, 0)
        gone = 0 < expires_ms <= self.now_ms
        state.data, state.expires_ms = (None, 0) if gone else (data, expires_ms)
        state.changed = state.new = True

    def update(self, key: bytes, data: bytes) -> None:
        """Replace the value of an object, or make one without an expiry. Raises CommandError if it is too long."""
        if len(data) > self.max_bytes:
            raise CommandError(TOO_LONG)
        self.assign(key, data, self._states[key].expires_ms)

    def expire(self, key: bytes, expires_ms: int) -> None:
        """Change the expiry of an object that exists; 0: it does not expire; it is deleted if that has passed."""
        state = self._states[key]
        if 0 < expires_ms <= self.now_ms:
            self.delete(key)
        else:
            state.expires_ms, state.changed = expires_ms, True

    def delete(self, key: bytes, *, surely: bool = False) -> bool:
        """Delete an object; True if it existed. `surely`: also if it seems not to exist, see DEL."""
        state = self._states.get(key)
        if state is None:
            raise Unread
        existed = state.data is not None
        if existed or surely:
            state.data, state.expires_ms = None, 0
            state.changed = state.new = True
        return existed

    def changes(self) -> dict[bytes, NewValue | Otherwise]:
        """Return what is to be written, by key."""
        changes: dict[bytes, NewValue | Otherwise] = {}
        for key, state in self._states.items():
            if state.changed:
                if state.data is None:
                    changes[key] = DELETE
                else:
                    expires_at = as_timestamp(state.expires_ms) if state.expires_ms else NEVER
                    changes[key] = NewValue(state.data, expires_at, only_expiry=not state.new)
        return changes


# Returns the reply to a command with these arguments, the name included. Raises CommandError or MilenaError.
Decision = Callable[[Values, list[bytes]], Any]
