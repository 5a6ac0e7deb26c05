"""Coordination. A client for threads as a mapping: defines `cache[key]` and the other operators by its methods.

Only the sync client has it: operators cannot be awaited. It adds no behaviour of its own.
"""

from __future__ import annotations

from typing import Any, Protocol

from milena_client.core.operations import not_found
from milena_client.core.values import Key, Value


class _Client(Protocol):
    """The methods of the client that the operators call."""

    def get(self, key: Key) -> bytes | None: ...

    def set(self, key: Key, value: Value) -> Any: ...

    def delete(self, key: Key) -> Any: ...

    def exists(self, key: Key) -> bool: ...


class ItemAccess:
    """The operators of a client whose methods are `get`, `set`, `delete` and `exists`."""

    def __getitem__(self: _Client, key: Key) -> bytes:
        """Return what `get` returns. Raises KeyNotFound, which is a KeyError, if there is no such object."""
        value = self.get(key)
        if value is None:
            raise not_found(key)
        return value

    def __setitem__(self: _Client, key: Key, value: Value) -> None:
        """Write as `set` with its defaults does."""
        self.set(key, value)

    def __delitem__(self: _Client, key: Key) -> None:
        """Delete as `delete` does: a key that does not exist is no error, since looking first would be a race."""
        self.delete(key)

    def __contains__(self: _Client, key: Key) -> bool:
        """Return what `exists` returns."""
        return self.exists(key)

    # Without this, `for key in client` would request the keys 0, 1, 2, … by __getitem__.
    __iter__ = None
