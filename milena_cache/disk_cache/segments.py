"""Coordination. The log: segments that are filled one after the other, of which the oldest is dropped for room.

A segment is a file. It is complete once its table is written; the one that is being filled has its rows in memory.
A segment is never changed afterwards, and its number never used again, so that a place in the log means one record.

`read_record` runs in several threads at once and uses nothing but the segment's descriptor, which is closed when
the last reader has ended: otherwise (1) a read waits for its thread; (2) the segment is dropped, and its descriptor
closed; (3) another file gets the number of the descriptor, and is read instead. All else runs in one thread.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from contextlib import suppress

from milena_cache.disk_cache.files import Files
from milena_cache.disk_cache.record import (
    HEAD_BYTES,
    HEADER_BYTES,
    ROW,
    ROW_BYTES,
    TRAILER_BYTES,
    Damaged,
    Foreign,
    Record,
    check_header,
    decode,
    decode_head,
    decode_table,
    encode,
    encode_header,
    encode_table,
    hash_of,
    head_length,
    table_length,
    version_of,
)

# Bytes of a segment, at least and normally: of a large disk the part 1 / MAX_COMPLETE, of a small one 1 / FEWEST.
FEWEST, MAX_COMPLETE = 16, 256
NORMAL_BYTES = 64 * 2**20
# A start begins a segment: after many of them there are more, and the oldest ones are dropped early.
MAX_SEGMENTS = MAX_COMPLETE + 64
# Records of a segment that is being filled: 12 MB of rows.
MAX_ROWS = 500_000
# Bytes that are read at once to find the records of a segment without a table.
SCAN_BYTES = 2**18

_NAME = re.compile(r"segment-([0-9]{12})\.milena")


def segment_bytes_of(max_bytes: int) -> int:
    """Return the bytes of a segment of a log of `max_bytes`."""
    return max(min(NORMAL_BYTES, max_bytes // FEWEST), max_bytes // MAX_COMPLETE)


class Segment:
    """A file of the log.

    size: its bytes
    rows: of its table, while it is being filled; None: in the file, or to be found there
    readers: reads that need the descriptor
    dropped: True once it is no part of the log any more
    """

    __slots__ = ("descriptor", "dropped", "name", "number", "readers", "rows", "size")

    def __init__(self, number: int, descriptor: int, size: int, rows: array[int] | None) -> None:
        self.number = number
        self.name = _name(number)
        self.descriptor = descriptor
        self.size = size
        self.rows = rows
        self.readers = 0
        self.dropped = False


class SegmentLog:
    """The log in one directory.

    segments: by number, the oldest first
    foreign: what was found of other formats and buckets, and removed
    written: bytes written since the start
    """

    def __init__(self, files: Files, identity: bytes, max_bytes: int, segment_bytes: int) -> None:
        self.segments: dict[int, Segment] = {}
        self.foreign: list[str] = []
        self.written = 0
        self.max_bytes = max_bytes
        self.segment_bytes = segment_bytes
        self._files = files
        self._identity = identity
        self._next = 1
        self._filling: Segment | None = None

    @property
    def used_bytes(self) -> int:
        """Return the size of all segments."""
        # A list, which is made in one step: a thread may add a segment.
        return sum(each.size for each in list(self.segments.values()))

    def open(self) -> list[tuple[Segment, int]]:
        """Open what earlier processes have left; return it with the number of records, the newest segment first.

        That number is 0 where it is not known. Removes what is not of this format and bucket. Raises OSError.
        """
        numbers = sorted(int(match[1]) for name in self._files.names() if (match := _NAME.fullmatch(name)))
        found: list[tuple[Segment, int]] = []
        for number in numbers:
            descriptor = self._files.open(_name(number))
            try:
                check_header(self._files.read_bytes(descriptor, HEADER_BYTES, 0), self._identity, number)
            except (Damaged, Foreign) as error:
                self.foreign.append(f"{_name(number)}: {error}")
                self._files.close(descriptor)
                self._files.remove_file(_name(number))
                continue
            segment = Segment(number, descriptor, self._files.size(descriptor), None)
            self.segments[number] = segment
            try:
                count = self._table_bytes(segment) // ROW_BYTES
            except Damaged:
                count = 0
            found.append((segment, count))
        self._next = numbers[-1] + 1 if numbers else 1
        return found[::-1]

    def needs_room(self, size: int, records: int) -> bool:
        """True if the oldest segment has to be dropped before records of `size` bytes in all are appended."""
        if not self.segments:
            return False
        begun = 1 + size // max(1, self.segment_bytes - HEADER_BYTES - TRAILER_BYTES)
        size_at_most = size + records * ROW_BYTES + (begun + 1) * (HEADER_BYTES + TRAILER_BYTES)
        if len(self.segments) + begun > MAX_SEGMENTS:
            return True
        return self.used_bytes + self._unwritten() + size_at_most > self.max_bytes

    def oldest(self) -> Segment:
        """Return the oldest segment, which nothing is appended to any more. Raises OSError."""
        segment = next(iter(self.segments.values()))
        if segment is self._filling:
            self.complete()
        return segment

    def append_records(self, records: Sequence[Record]) -> list[tuple[int, int, int]]:
        """Write the records; return segment, offset and length of each. Raises OSError."""
        places: list[tuple[int, int, int]] = []
        buffers: list[bytes] = []
        size = 0  # of `buffers`
        for record in records:
            head, value = encode(record)
            length = len(head) + len(value)
            segment = self._filling
            if segment is None or self._is_full(segment, size + length):
                self._write(buffers)
                buffers, size = [], 0
                self.complete()
                segment = self._begin()
            offset = segment.size + size
            places.append((segment.number, offset, length))
            assert segment.rows is not None
            version = version_of(record.etag, record.expires_at)
            segment.rows.extend((hash_of(record.key), version, offset << 32 | length))
            buffers += (head, value)
            size += length
        self._write(buffers)
        return places

    def complete(self) -> None:
        """Write the table of the segment that is being filled, if there is one. Raises OSError."""
        segment = self._filling
        if segment is None:
            return
        assert segment.rows is not None
        table = encode_table(segment.rows, segment.number)
        self._files.write_all(segment.descriptor, (table,), segment.size)
        segment.size += len(table)
        self.written += len(table)
        segment.rows = self._filling = None

    def table(self, segment: Segment) -> tuple[array[int], bool]:
        """Return the rows of a segment, and True if they are all of its records. Raises OSError."""
        if segment.rows is not None:
            return segment.rows[:], True
        try:
            length = self._table_bytes(segment) + TRAILER_BYTES
            raw = self._files.read_bytes(segment.descriptor, length, segment.size - length)
            return decode_table(raw, segment.number), True
        except Damaged:
            return self._scan(segment)

    def read_record(self, segment: Segment, offset: int, length: int) -> Record:
        """Return the record at a place of the log. Raises Damaged or OSError."""
        return decode(self._files.read_bytes(segment.descriptor, length, offset))

    def detach(self, segment: Segment) -> None:
        """Take a segment out of the log: it is removed by `remove_segment` when nothing reads it any more."""
        segment.dropped = True
        del self.segments[segment.number]

    def remove_segment(self, segment: Segment) -> None:
        """Close and remove the file of a segment that was taken out. Raises OSError."""
        self._files.close(segment.descriptor)
        self._files.remove_file(segment.name)

    def close(self) -> None:
        """Close all segments that nothing reads; no read begins any more."""
        for segment in self.segments.values():
            if not segment.readers:
                with suppress(OSError):
                    self._files.close(segment.descriptor)
        self.segments = {}
        self._filling = None
        self._files.release()

    def _unwritten(self) -> int:
        """Return the bytes that the table of the segment that is being filled will take."""
        rows = None if self._filling is None else self._filling.rows
        return 0 if rows is None else len(rows) // ROW * ROW_BYTES + TRAILER_BYTES

    def _is_full(self, segment: Segment, size: int) -> bool:
        """True if `size` more bytes, of which only the last record's are not in the rows yet, have no room."""
        assert segment.rows is not None
        count = len(segment.rows) // ROW
        table = (count + 1) * ROW_BYTES + TRAILER_BYTES
        return count >= MAX_ROWS or (count > 0 and segment.size + size + table > self.segment_bytes)

    def _begin(self) -> Segment:
        number = self._next
        self._next += 1
        descriptor = self._files.create(_name(number))
        segment = Segment(number, descriptor, HEADER_BYTES, array("Q"))
        self.segments[number] = self._filling = segment
        self._files.write_all(descriptor, (encode_header(self._identity, number),), 0)
        self.written += HEADER_BYTES
        return segment

    def _write(self, buffers: Sequence[bytes]) -> None:
        segment = self._filling
        if buffers and segment is not None:
            self._files.write_all(segment.descriptor, buffers, segment.size)
            size = sum(map(len, buffers))
            segment.size += size
            self.written += size

    def _table_bytes(self, segment: Segment) -> int:
        """Return the bytes of the table of a completed segment, without its trailer. Raises Damaged, OSError."""
        offset = max(0, segment.size - TRAILER_BYTES)
        length = table_length(self._files.read_bytes(segment.descriptor, TRAILER_BYTES, offset), segment.number)
        if length > segment.size - HEADER_BYTES - TRAILER_BYTES:
            raise Damaged("the table is longer than the segment")
        return length

    def _scan(self, segment: Segment) -> tuple[array[int], bool]:
        """Return the rows of the records that follow each other from the beginning, and whether that is all."""
        rows = array("Q")
        offset, window, start = HEADER_BYTES, b"", 0
        while offset + HEAD_BYTES <= segment.size:
            at = offset - start
            length = head_length(window[at : at + HEAD_BYTES]) if 0 <= at <= len(window) - HEAD_BYTES else 0
            if not length or at + length > len(window):
                needed = max(SCAN_BYTES, length)
                window, start, at = self._files.read_bytes(segment.descriptor, needed, offset), offset, 0
                length = head_length(window) if len(window) >= HEAD_BYTES else 0
                if length > len(window):
                    window = self._files.read_bytes(segment.descriptor, length, offset)
            try:
                head = decode_head(window[at : at + max(length, HEAD_BYTES)])
            except Damaged:
                return rows, False
            if offset + head.length > segment.size:
                return rows, False
            rows.extend((hash_of(head.key), version_of(head.etag, head.expires_at), offset << 32 | head.length))
            offset += head.length
        return rows, offset == segment.size


def _name(number: int) -> str:
    return f"segment-{number:012}.milena"
