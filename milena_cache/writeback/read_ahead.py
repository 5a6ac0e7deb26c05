"""Coordination. The values of uploads that are only in the journal, read back for several uploads at once.

Each look into the journal's file lets other threads have the interpreter's lock, such as those of the S3 client,
and takes it again afterwards. For one value at a time that takes longer than the upload's own work. So the first
upload whose value is not in memory reads those of the next ones too.
"""

from __future__ import annotations

from typing import Final

from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.uploads.queue import UploadQueue

# Values that are read at once, and the bytes of those beyond the first one.
MAX_VALUES: Final = 32
MAX_BYTES: Final = 2**17


class ReadAhead:
    """Up to MAX_VALUES values of next uploads, each read with others of MAX_BYTES together."""

    def __init__(self, dirty: Dirty, dirty_writes: DirtyWrites, queue: UploadQueue) -> None:
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._queue = queue
        self._values: dict[int, bytes] = {}  # by the number of the record, which has one value for ever

    def value(self, entry: DirtyEntry) -> bytes:
        """Return the value of an entry that is not a delete and was taken from the queue.

        Raises FailedPrecondition if its record is damaged, after making the entry a dead letter.
        """
        if entry.value is None and entry.dead is None:
            values = self._values
            value = values.pop(entry.number, None)
            if value is None:
                values.update(self._dirty_writes.read_back(self._chosen(entry)))
                value = values.pop(entry.number, None)
                # Not the newest: those that no upload has asked for are of writes that later ones have replaced.
                while len(values) > MAX_VALUES:
                    del values[next(iter(values))]
            if value is not None:
                return value
        return self._dirty_writes.value(entry)

    def _chosen(self, entry: DirtyEntry) -> list[int]:
        """Return the number of the entry's record, and of those of the next uploads that are to be read too."""
        numbers, room = [entry.number], MAX_BYTES
        for key in self._queue.next_fresh(MAX_VALUES):
            following = self._dirty.get(key)
            if following is None or following.value is not None or following.deleted or following.dead is not None:
                continue
            room -= following.size
            if room < 0:
                break
            if following.number not in self._values:
                numbers.append(following.number)
        return numbers
