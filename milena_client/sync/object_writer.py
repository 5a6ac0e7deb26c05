"""Shell. An object as a file that is written, of a class of `io`, so that libraries that write files take it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from milena_client.core.files.upload_steps import UploadStep, UploadSteps
from milena_client.core.values import Written
from milena_common.api.errors import MilenaError

# Bytes of small writes that are collected before they are passed on.
BUFFER_BYTES = 64 * 1024

# Sends a step; one that is the first and the last is a put. Raises MilenaError.
Send = Callable[[UploadStep], Written]


class _RawWriter(io.RawIOBase):
    """The steps of one object. `close` stores it only after `seal`: else nothing is stored."""

    def __init__(self, send: Send, max_value_bytes: int) -> None:
        self.written: Written | None = None
        self._send = send
        self._steps = UploadSteps(max_value_bytes)
        self._finished = self._failed = False

    def writable(self) -> bool:
        return True

    def write(self, buffer: Any, /) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        self._check_complete()
        try:
            while self._steps.is_full:
                self._send(self._steps.next_step())
        except BaseException:
            self._failed = True
            raise
        return self._steps.add(memoryview(buffer).cast("B"))

    def tell(self) -> int:
        return self._steps.size

    def seal(self) -> None:
        """Have `close` store the object: all of its bytes were written. Raises ValueError if they were not."""
        self._check_complete()
        self._finished = True

    def _check_complete(self) -> None:
        if self._failed:
            raise ValueError("an earlier write to this file failed: nothing of it is stored")

    def forget(self) -> None:
        """Store nothing, and send nothing any more."""
        self._failed = True
        self._steps = UploadSteps(1)

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._finished and not self._failed:
                written = None
                for step in self._steps.last_steps():
                    written = self._send(step)
                self.written = written
        except BaseException:
            self._failed = True
            raise
        finally:
            super().close()
            dropped = self._steps.drop_step() if self.written is None else None
            if dropped is not None:
                with suppress(MilenaError):  # the nodes drop it themselves, a little later
                    self._send(dropped)


class ObjectWriter(io.BufferedWriter):
    """An object that is being written, as `Milena.open` returns it: an `io.BufferedWriter`.

    Nothing of it is visible before `close`. After an error, at the end of a ``with`` that raised one, and if it is
    never closed, nothing is stored. It keeps at most 4 MiB.
    """

    def __init__(self, send: Send, max_value_bytes: int) -> None:
        self._object = _RawWriter(send, max_value_bytes)
        super().__init__(self._object, BUFFER_BYTES)

    @property
    def written(self) -> Written | None:
        """The ETag, node and durability of the object, once `close` has returned; None before."""
        return self._object.written

    def close(self) -> None:
        """Store the object. Raises ConditionFailed if mode "xb" found one, and other MilenaErrors: as for `set`."""
        if not self.closed:
            # Not left to `super().close()`, which closes the raw file also where flushing was interrupted by a
            # signal between two of its writes: the object would be stored without its end.
            try:
                self.flush()
                self._object.seal()
            except BaseException:
                self.abort()
                raise
        super().close()

    def abort(self) -> None:
        """Store nothing, and drop what was sent. No effect after `close`."""
        if not self.closed:
            self._object.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        # The method of `io` would store what was written so far.
        if not self.closed:
            warnings.warn(f"unclosed {self!r}: nothing of it is stored", ResourceWarning, stacklevel=1, source=self)
            self._object.forget()
            self._object.close()
