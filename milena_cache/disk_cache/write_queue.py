"""Pure. Values that wait for being written to the disk cache, bounded in bytes: what has no room is not written.

An item stays until its record is in the index, so that reads find it, and so that whatever drops the key's entry
drops it too. Otherwise: (1) an entry is evicted, and its record is being written; (2) a write of the key is
acknowledged; (3) the record is written, comes into the index, and a read gets the value from before the write.
"""

from __future__ import annotations

from milena_cache.objects.entry import Entry

# Bytes of values and keys that wait or are being written.
QUEUE_BYTES = 16 * 2**20


class Item:
    """A value to be written. `entry` may be replaced by a later one of the same version."""

    __slots__ = ("entry", "key", "size", "taken")

    def __init__(self, key: bytes, entry: Entry, size: int) -> None:
        self.key = key
        self.entry = entry
        self.size = size
        self.taken = False


class WriteQueue:
    """The items, the oldest first. `bytes`: of all items, also of dropped ones that are being written."""

    def __init__(self, max_bytes: int = QUEUE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._items: dict[bytes, Item] = {}

    def __len__(self) -> int:
        return len(self._items)

    @property
    def has_waiting(self) -> bool:
        """True if there is an item that is not being written yet."""
        return bool(self._items) and not next(reversed(self._items.values())).taken

    def get(self, key: bytes) -> Item | None:
        """Return the item of a key; None if there is none."""
        return self._items.get(key)

    def add(self, key: bytes, entry: Entry, size: int) -> bool:
        """Add a value in place of an earlier one; False if there is no room for its `size` bytes."""
        self.drop_item(key)
        if self.bytes + size > self.max_bytes:
            return False
        self._items[key] = Item(key, entry, size)
        self.bytes += size
        return True

    def drop_item(self, key: bytes) -> None:
        """Remove the item of a key, if there is one, whether it is being written or not."""
        item = self._items.pop(key, None)
        if item is not None and not item.taken:
            self.bytes -= item.size

    def take_batch(self, max_bytes: int) -> list[Item]:
        """Return the oldest items that are not being written, of up to `max_bytes` in all, or one."""
        taken: list[Item] = []
        size = 0
        for item in self._items.values():
            if item.taken:
                continue
            if taken and size + item.size > max_bytes:
                break
            item.taken = True
            size += item.size
            taken.append(item)
        return taken

    def written(self, item: Item) -> bool:
        """Remove an item that was taken; False if it had been dropped."""
        self.bytes -= item.size
        if self._items.get(item.key) is not item:
            return False
        del self._items[item.key]
        return True

    def drop_all(self) -> None:
        """Drop everything."""
        for key in list(self._items):
            self.drop_item(key)
