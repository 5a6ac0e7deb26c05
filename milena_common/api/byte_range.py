"""Pure. A range of bytes of an object, and the part of a value that it covers.

Routers, nodes, the store and the clients decide here what a range covers, so that all of them agree with S3: a
range may go beyond the end of the object, and one that begins there is an error.
"""

from __future__ import annotations

from typing import NamedTuple

from milena_common.api.errors import InvalidRequest, RangeNotSatisfiable

# The fields of the wire: a signed and an unsigned number of 64 bits.
MIN_OFFSET, MAX_OFFSET = -(2**63), 2**63 - 1
MAX_LENGTH = 2**64 - 1
# Bytes of the largest part of a large object in one reply. A node or router has up to four times as many of it: the
# blocks, the part, and the copies that its protocol makes of that.
MAX_PART_BYTES = 4 * 2**20


class ByteRange(NamedTuple):
    """A range of bytes. Offset 0 with length 0 is the whole object, which may be empty.

    offset: of the first byte; a negative one counts from the end of the object
    length: at most so many bytes; 0: all up to the end
    """

    offset: int
    length: int

    def within(self, size: int) -> ByteRange:
        """Return the bytes of an object of `size` bytes that this covers: offset from the beginning, exact length.

        Raises RangeNotSatisfiable if it covers none of them, unless it is the whole object.
        """
        offset, length = self
        if not offset and not length:
            return ByteRange(0, size)
        start = offset + size if offset < 0 else offset
        stop = min(start + length, size) if length else size
        start = max(0, start)
        if start >= stop:
            allowed = f"-{size} to {size - 1}" if size else "none"
            raise RangeNotSatisfiable(
                f"offset: a range from {offset} of length {length} has none of the object's {size} bytes; "
                f"allowed offsets: {allowed}"
            )
        return ByteRange(start, stop - start)

    def of(self, value: bytes) -> bytes:
        """Return the part of `value` that this covers; `value` itself if it is all of it. Raises as `within`."""
        start, length = self.within(len(value))
        return value if length == len(value) else value[start : start + length]

    def max_bytes(self, size: int) -> int:
        """Return how many bytes of an object of `size` bytes this can cover at most, satisfiable or not."""
        covered = min(size, self.length) if self.length else size
        return min(covered, -self.offset) if self.offset < 0 else covered


WHOLE = ByteRange(0, 0)


def checked_range(offset: int, length: int | None) -> ByteRange:
    """Return the range of a caller's arguments; `length` None: all up to the end. Raises InvalidRequest."""
    if not MIN_OFFSET <= offset <= MAX_OFFSET:
        raise InvalidRequest(f"offset: got {offset}; allowed: {MIN_OFFSET} to {MAX_OFFSET}")
    if length is None:
        return ByteRange(offset, 0)
    if not 1 <= length <= MAX_LENGTH:
        raise InvalidRequest(f"length: got {length}; allowed: 1 to {MAX_LENGTH}, or None for all up to the end")
    return ByteRange(offset, length)
