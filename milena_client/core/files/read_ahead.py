"""Pure. Which bytes of an object a file object requests, and which of them it has already.

A read that begins where the one before has ended is sequential. From the second such read on more is requested than
is read: MIN_WINDOW bytes, and twice as many with each request, up to MAX_REQUEST. Any other read requests what it
reads, so that random reads fetch no bytes in vain, and as much as its caller has room for of the block that it ends
in.

The caller says what is one read (`start_read`), and may take its bytes in several steps. Each step alone would look
sequential: (1) a reader of 100 KiB somewhere in the object takes them as 64 KiB and 36 KiB, as `io` does; (2) the
second step begins where the first has ended; (3) a megabyte is requested for 36 KiB.

At most the bytes of one request are kept, and they are dropped before the next one is sent.

Of an object in blocks a request is within one group of them, so that the node that has the group can serve it. Only
the client knows then that a reader goes on at another node: what will be read next comes with each request
(`ahead`), for the nodes to read it from S3 meanwhile. That is what a sequential reader will read, and of any other
read what it needs.
"""

from __future__ import annotations

from milena_client.core.files.block_read import NOTHING
from milena_common.api.ahead import Ahead
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import ConditionFailed, FailedPrecondition, InvalidRequest

# Bytes of a sequential reader's first requests. Also those of a block, unless the nodes have another BLOCK_BYTES.
MIN_WINDOW = 2**20
# Bytes of the largest requests. A client has a response up to five times while it is received, so that a reader
# takes 16 MiB at most, what the allocator does not return at once included.
MAX_REQUEST = 2 * 2**20
# A rejected request is halved down to so many bytes at least.
MIN_REQUEST = 1024


class ReadAhead:
    """The position and the bytes of one reader of an object of `size` bytes.

    block_bytes, group_bytes: of an object in blocks, else 0
    position: of the next byte that is read, from 0 on; it may be behind the end
    max_request: bytes that one request may have
    ahead: what the last request will be followed by, as far as that is new; NOTHING if it is not known
    """

    def __init__(self, size: int, max_request: int, block_bytes: int = 0, group_bytes: int = 0) -> None:
        self.size = size
        self.position = 0
        self.max_request = min(MAX_REQUEST, max_request)
        self.ahead = NOTHING
        self._block_bytes = block_bytes or MIN_WINDOW
        self._group_bytes = group_bytes
        self._proposed = Ahead(0, 0)
        self._requested_to = 0  # where the last request has ended
        self._kept_from = 0
        self._kept = b""
        self._last_end = -1  # where the last read has ended
        self._window = 0
        self._sequential = False

    def start_read(self) -> None:
        """Begin a read at `position`."""
        self._sequential = self.position == self._last_end
        if not self._sequential:
            self._window = 0

    def consume(self, length: int) -> memoryview:
        """Return the next bytes that are kept, at most `length`, and pass over them; none if none are kept."""
        at = self.position - self._kept_from
        part = memoryview(self._kept)[at : at + length] if 0 <= at < len(self._kept) else memoryview(b"")
        if part:
            self.position += len(part)
            self._last_end = self.position
        return part

    def next_request(self, length: int, room: int = 0) -> ByteRange | None:
        """Return what to request so that `length` bytes, or fewer, can be read; None at the end of the object.

        `room`: bytes that the caller has a buffer for.
        """
        remaining = self.size - self.position
        if remaining <= 0 or length <= 0:
            return None
        if self._sequential:
            self._window = min(max(2 * self._window, MIN_WINDOW), MAX_REQUEST)
            more = self._window
        else:
            last = self.position + length - 1
            more = min(room, (last // self._block_bytes + 1) * self._block_bytes - self.position)
        self._kept = b""
        limit = min(self.max_request, remaining)
        if self._group_bytes:
            limit = min(limit, self._group_bytes - self.position % self._group_bytes)
        request = ByteRange(self.position, min(max(length, more), limit))
        if self._group_bytes:
            self._propose(request, self.size if self._sequential else self.position + length)
        return request

    def _propose(self, request: ByteRange, limit: int) -> None:
        """Set `ahead` of `request`, behind which bytes up to `limit` will be read."""
        end = request.offset + request.length
        if request.offset != self._requested_to:
            self._proposed = Ahead(0, end)
        self._requested_to = end
        self._proposed, ahead = self._proposed.next(end, min(limit, self.size), self._block_bytes)
        self.ahead = ahead or NOTHING

    def requests_less(self, request: ByteRange, error: FailedPrecondition) -> bool:
        """Return True if the next request is to be a smaller one than `request`, which was rejected with `error`.

        The cluster may allow less than this client knows: MAX_VALUE_BYTES comes with the ring.
        """
        if isinstance(error, ConditionFailed) or request.length < 2 * MIN_REQUEST:
            return False
        self.max_request = request.length // 2
        return True

    def fill(self, value: bytes) -> None:
        """Take the bytes of the last request."""
        self._kept_from, self._kept = self.position, value

    def seek(self, offset: int, whence: int) -> int:
        """Move to `offset`, counted from the beginning (`whence` 0), the position (1) or the end (2); return it.

        Raises InvalidRequest.
        """
        if whence not in (0, 1, 2):
            raise InvalidRequest(f"whence: got {whence}; allowed: 0, 1, 2")
        position = offset + (0, self.position, self.size)[whence]
        if position < 0:
            raise InvalidRequest(f"offset: position {position} is before the beginning of the object")
        self.position = position
        return position
