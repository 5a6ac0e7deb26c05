"""Pure. The steps in which an object of any size is written: which bytes to send when.

An object of up to WHOLE_BYTES is collected, and written by a put. A larger one is sent in steps of MAX_STEP_BYTES,
each when more bytes come, so that the last one, which stores the object, is never empty.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import NamedTuple

from milena_common.api.uploads import MAX_STEP_BYTES

# The copies of a value that a put makes are four times this.
WHOLE_BYTES = 4 * 2**20
NAME_BYTES = 16


class UploadStep(NamedTuple):
    """A step of writing an object.

    upload: the name of the upload
    offset: of the first byte of `value` in the object
    value: the bytes
    complete: True if they are the last ones
    abort: True to drop what was sent
    """

    upload: str
    offset: int
    value: bytes
    complete: bool = False
    abort: bool = False


class UploadSteps:
    """The bytes of one object that are not sent yet. `max_value_bytes`: those that the cluster takes at once.

    size: bytes of the object so far
    sent: bytes of the steps that were taken to be sent
    """

    def __init__(self, max_value_bytes: int) -> None:
        self.size = 0
        self.sent = 0
        self._name = secrets.token_hex(NAME_BYTES)
        self._step_bytes = min(MAX_STEP_BYTES, max_value_bytes)
        self._room = min(WHOLE_BYTES, max_value_bytes)
        self._collected = bytearray()

    @property
    def is_full(self) -> bool:
        """True if a step has to be sent before more bytes are added."""
        return len(self._collected) >= self._room

    def add(self, value: memoryview) -> int:
        """Take the first bytes of `value`, as many as there is room for; return how many."""
        taken = value[: self._room - len(self._collected)]
        self._collected += taken
        self.size += len(taken)
        return len(taken)

    def next_step(self) -> UploadStep:
        """Return the next step, which is not the last one."""
        step = UploadStep(self._name, self.sent, bytes(self._collected[: self._step_bytes]))
        del self._collected[: self._step_bytes]
        self.sent += len(step.value)
        self._room = self._step_bytes
        return step

    def last_steps(self) -> Iterator[UploadStep]:
        """Iterate over the steps that are left; the last one, of a small object the only one, stores it."""
        while self.sent and len(self._collected) > self._step_bytes:
            yield self.next_step()
        value, self._collected = bytes(self._collected), bytearray()
        offset = self.sent
        self.sent += len(value)
        yield UploadStep(self._name, offset, value, complete=True)

    def drop_step(self) -> UploadStep | None:
        """Return the step that drops what was sent, and forget the rest; None if nothing was sent."""
        self._collected = bytearray()
        return UploadStep(self._name, 0, b"", abort=True) if self.sent else None
