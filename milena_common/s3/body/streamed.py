"""Coordination. Passes the body of a request on while it comes: the event loop fills it, and a thread reads it.

    client ─▶ fill ─▶ at most WINDOW_BYTES ─▶ read ─▶ S3
              event loop                      thread

The last bytes are withheld from the reader until the whole body has come, and its length, its signatures and all
its digests are verified. If anything is wrong, the reader gets an error instead, and ends its request to S3 short
of the announced length, so that S3 stores nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping
from typing import Final

from milena_common.s3.body.aws_chunked import AwsChunked
from milena_common.s3.body.checksums import Digests
from milena_common.s3.body.received import Body, incomplete
from milena_common.s3.wire.errors import S3Error

# Bytes that have come and were not read, beyond which no more are taken from the client.
WINDOW_BYTES: Final = 256 * 1024
# Bytes that one body has in memory at most: those of the connection and its parser, the window, and what is read.
MEMORY_BYTES: Final = 3 * 2**19


class StreamedBody:
    """A body of `length` bytes, at least 1, as a file for the client of S3. Needs a running event loop.

    started: True once the reader has taken something, so that its request cannot be repeated
    verified: the checksums that the request names, by algorithm, once all was read
    error: why the body is not what was announced, or did not come; None if that is not so
    """

    def __init__(self, length: int, digests: Digests) -> None:
        self.length = length
        self.started = False
        self.verified: Mapping[str, str] = {}
        self.error: BaseException | None = None
        self._digests = digests
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        # Guards what follows, and is notified of its changes.
        self._changed = threading.Condition()
        self._parts: deque[bytes] = deque()
        self._size = 0  # of _parts
        self._trailers: Mapping[str, str] | None = None  # when the whole body has come
        self._given = 0
        # Of the reader's thread alone.
        self._rest = memoryview(b"")

    @property
    def md5(self) -> str:
        """Return the MD5 of what was read, in hexadecimal digits."""
        return self._digests.md5

    # ---- in the event loop

    async def fill(self, body: Body, decoder: AwsChunked | None) -> None:
        """Pass a body on until its end. Raises S3Error and ConnectionError, after the reader got the error."""
        try:
            size = 0
            while data := await body.read():
                for part in decoder.feed(data) if decoder is not None else (data,):
                    size += len(part)
                    if size > self.length:
                        raise S3Error("InvalidRequest", "The body is longer than its announced length")
                    await self._add(part, last=size == self.length)
            if size != self.length or (decoder is not None and not decoder.complete):
                raise incomplete()
            with self._changed:
                self._trailers = decoder.trailers if decoder is not None else {}
                self._changed.notify()
        except BaseException as error:
            self.fail(error)
            raise

    async def _add(self, part: bytes, *, last: bool) -> None:
        with self._changed:
            self._parts.append(part)
            self._size += len(part)
            self._changed.notify()
        # The last part is not waited for: the reader does not get it before the end of the body.
        while not last and self._size >= WINDOW_BYTES:
            self._room.clear()
            if self._size >= WINDOW_BYTES:  # else it was read in between, and the wake-up came before `clear`
                await self._room.wait()

    def fail(self, error: BaseException) -> None:
        """Give the reader an error in the place of what is left; the first one counts."""
        with self._changed:
            if self.error is None:
                self.error = error
            self._parts.clear()
            self._size = 0
            self._changed.notify()

    # ---- in the reader's thread

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, those that come next, b"" at the end. Raises OSError after `fail`."""
        self.started = True
        if not self._rest:
            self._rest = memoryview(self._next())
        taken = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(taken) :]
        return bytes(taken)

    def _next(self) -> bytes:
        with self._changed:
            while True:
                if self.error is not None:
                    raise OSError("the body did not come as it was announced")
                if self._given == self.length:
                    return b""
                if self._parts:
                    is_last = self._given + len(self._parts[0]) == self.length
                    if not is_last or self._trailers is not None:
                        break
                self._changed.wait()
            part = self._parts.popleft()
            self._size -= len(part)
            self._given += len(part)
        self._loop.call_soon_threadsafe(self._room.set)
        self._digests.feed(part)
        if self._given == self.length:
            try:
                self.verified = self._digests.verify(self._trailers or {})
            except S3Error as error:
                self.fail(error)
                raise OSError("the body is not the one that was announced") from None
        return part
