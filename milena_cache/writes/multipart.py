"""Coordination. One object that is stored in S3 in parts, so that it never is in memory as a whole.

    bytes ─▶ part that is filled ─▶ part that is uploaded ─▶ … ─▶ complete: the object is there
                 8 MiB                    8 MiB

Nothing of the object is visible before `complete` (`assembly`), whose request is the only one that has an effect.

The version is that of the first part, because S3 takes metadata then. A write of the key that is acknowledged
while the parts are uploaded has a greater version, and yet is the earlier one. That is why `complete` is
acknowledged only when no record and no copy of such a write is left, as a delete is, whose version S3 does not show
either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from milena_cache.objects.object_store import OriginFailure, Ref
from milena_cache.objects.version import Version, stamp
from milena_cache.objects.write_request import Change
from milena_cache.writes.assembly import ABORT_SECONDS, Assembly, Completed, Upload
from milena_common.api.errors import DeadlineExceeded, FailedPrecondition
from milena_common.api.uploads import MAX_PARTS

# Bytes of all parts but the last: some stores want them to be equal. At least 5 MiB in S3.
PART_BYTES = 8 * 2**20
MAX_OBJECT_BYTES = MAX_PARTS * PART_BYTES
# Bytes that one object has in memory at most: a part that is filled, and one that is uploaded.
MEMORY_BYTES = 2 * PART_BYTES


class Multipart:
    """A multipart upload of one object to `ref`, and the bytes that S3 does not have yet.

    size: bytes of the object so far
    begun: True once a part was begun, so that S3 may have something that `remove_upload` removes
    """

    def __init__(self, ref: Ref, next_version: Callable[[], Version], assembly: Assembly) -> None:
        self.size = 0
        self.begun = False
        self._ref = ref
        self._next_version = next_version
        self._version: Version | None = None
        self._assembly = assembly
        self._origin = assembly.origin
        self._upload = ""
        self._etags: list[str] = []
        self._filling = bytearray()
        self._uploading: asyncio.Task[None] | None = None

    @property
    def value(self) -> bytes:
        """The bytes of an object of which no part was begun."""
        return bytes(self._filling)

    async def add(self, value: memoryview, deadline: float) -> None:
        """Take the next bytes; waits while one part is full and the one before is being uploaded.

        `size` counts what was taken, also if this fails. Raises FailedPrecondition beyond MAX_OBJECT_BYTES,
        DeadlineExceeded, and S3's error of a part.
        """
        if self.size + len(value) > MAX_OBJECT_BYTES:
            raise FailedPrecondition(
                f"{self._ref}: the object has more than {MAX_OBJECT_BYTES} bytes, which is the most that can be "
                f"written: {MAX_PARTS} parts of {PART_BYTES} bytes"
            )
        while value:
            if len(self._filling) == PART_BYTES:
                await self._part_done(deadline)
                self._begin_part()
            taken = value[: PART_BYTES - len(self._filling)]
            self._filling += taken
            self.size += len(taken)
            value = value[len(taken) :]

    def _begin_part(self) -> None:
        part, self._filling = self._filling, bytearray()
        self.begun = True
        # A task of its own: a caller that gives up cancels no request, and repeats its step.
        self._uploading = asyncio.get_running_loop().create_task(self._send(part))

    async def _send(self, part: bytearray) -> None:
        if not self._upload:
            self._version = self._next_version()
            metadata = stamp(self._version, self._ref, self._assembly.lineages.own)
            self._upload = await self._origin.create_multipart(self._ref, inf, metadata=metadata)
        self._etags.append(await self._origin.upload_part(self._ref, self._upload, len(self._etags) + 1, part, inf))

    async def _part_done(self, deadline: float) -> None:
        """Wait for the part that is being uploaded. Raises DeadlineExceeded, and S3's error."""
        task = self._uploading
        if task is None:
            return
        await asyncio.wait((task,), timeout=max(0.0, deadline - self._origin.clock.now()))
        if not task.done():
            raise DeadlineExceeded(f"{self._ref}: S3 has not taken part {len(self._etags) + 1} in time")
        try:
            task.result()
        except OriginFailure as failure:
            raise failure.as_error() from None

    async def finish_parts(self, deadline: float) -> None:
        """Upload what is left as the last part. Raises DeadlineExceeded, and S3's error."""
        await self._part_done(deadline)
        if self._filling or not self._etags:
            self._begin_part()
            await self._part_done(deadline)

    async def complete(self, change: Change, deadline: float, *, decided: bool) -> Completed:
        """Make the object of its parts, as `Assembly.complete` does."""
        upload = Upload(self._ref, self._upload, self._etags, version=self._version, size=self.size)
        return await self._assembly.complete(upload, change, deadline, decided=decided)

    async def remove_upload(self) -> None:
        """Remove what S3 has of the object, if it can be reached; waits for the part that is being uploaded."""
        if self._uploading is not None:
            await asyncio.wait((self._uploading,))
            if not self._uploading.cancelled():
                self._uploading.exception()  # marks it as retrieved
        self._filling = bytearray()
        if self._upload:
            await self._origin.abort_multipart(self._ref, self._upload, self._origin.clock.now() + ABORT_SECONDS)
