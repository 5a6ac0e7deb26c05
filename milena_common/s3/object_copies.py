"""Coordination. Copies of objects, by S3's CopyObject and by Milena's own API.

The source is what S3 has, or the newest write that S3 does not have yet. A small object is read and written as by
two requests of a client, so that its copy is in the durability class of a put. A larger one is copied by S3, in
parts, and its bytes do not come here. Either way the copy is of one version: if the source is replaced meanwhile,
it is copied anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from milena_common.api.byte_range import WHOLE, ByteRange
from milena_common.api.errors import ConditionFailed, MilenaError, Overloaded
from milena_common.api.properties import Properties
from milena_common.api.uploads import UploadedPart
from milena_common.limits.byte_budget import ByteBudget
from milena_common.s3.body.received import COPIES
from milena_common.s3.objects import Found, Objects, Written

# A larger object is copied by S3.
SMALL_BYTES: Final = 8 * 2**20
PART_BYTES: Final = 256 * 2**20
# Parts of one object that S3 copies at a time.
MAX_COPYING: Final = 4
# How often a source may be replaced while it is copied.
MAX_CHANGES: Final = 3

# Seconds to remove the parts of a copy that failed.
ABORT_SECONDS: Final = 10.0

# Bucket and key.
Name = tuple[str, bytes]


class Copy(NamedTuple):
    """A copy to make.

    check: raises an error unless the source, as it was found, is to be copied
    properties: what is kept with the copy; None: what the source has
    durability, if_match, if_none_match: as those of a put
    reading, writing: return the seconds that the next request may take
    read: called with the bytes of a source that is read here
    """

    source: Name
    target: Name
    check: Callable[[Found], None]
    properties: Properties | None
    durability: str
    if_match: str
    if_none_match: str
    reading: Callable[[], float]
    writing: Callable[[], float]
    read: Callable[[int], None]


class ObjectCopies:
    """Makes copies of `objects`. `budget`: the process's bytes in flight."""

    def __init__(self, objects: Objects, budget: ByteBudget, max_value_bytes: int) -> None:
        self._objects = objects
        self._budget = budget
        self._small = min(SMALL_BYTES, max_value_bytes)

    async def make(self, copy: Copy) -> Written | None:
        """Copy an object; None if there is none. Raises as `copy.check`, and as the methods of `Objects`."""
        for _ in range(MAX_CHANGES):
            await self._objects.confirm(*copy.source, copy.reading())
            found = await self._objects.describe(*copy.source, copy.reading())
            if not found.exists:
                return None
            copy.check(found)
            properties = copy.properties
            if properties is None:
                properties = found.properties._replace(last_modified=0.0)
            large = found.size > self._small
            written = await (self._copied_by_s3 if large else self._copied)(copy, found, properties)
            if written is not None:
                return written
        raise Overloaded(f"The source was replaced {MAX_CHANGES} times while it was copied")

    async def _copied(self, copy: Copy, found: Found, properties: Properties) -> Written | None:
        """Return the copy of the source as it was `found`; None if it is another one by now."""
        await self._budget.take(COPIES * found.size, copy.reading())
        try:
            try:
                reading = self._objects.read(*copy.source, WHOLE, SMALL_BYTES, copy.reading(), found.etag)
                got = reading if isinstance(reading, Found) else await reading
            except ConditionFailed:
                return None
            if not got.exists or len(got.value) != found.size:
                return None
            copy.read(found.size)
            return await self._objects.put(
                *copy.target,
                got.value,
                copy.writing(),
                durability=copy.durability,
                if_match=copy.if_match,
                if_none_match=copy.if_none_match,
                properties=properties,
            )
        finally:
            self._budget.release(COPIES * found.size)

    async def _copied_by_s3(self, copy: Copy, found: Found, properties: Properties) -> Written | None:
        objects, target = self._objects, copy.target
        upload = await objects.create_upload(*target, copy.writing(), properties=properties)
        places = asyncio.Semaphore(MAX_COPYING)

        async def copy_part(number: int, offset: int) -> UploadedPart:
            async with places:
                part = ByteRange(offset, min(PART_BYTES, found.size - offset))
                return await objects.copy_part(
                    *target, upload, number, copy.source, part, copy.writing(), if_match=found.etag
                )

        copying = [
            asyncio.ensure_future(copy_part(number, offset))
            for number, offset in enumerate(range(0, found.size, PART_BYTES), 1)
        ]
        try:
            try:
                parts = await asyncio.gather(*copying)
            except ConditionFailed:
                await self._drop(target, upload, copying)
                return None
            return await objects.complete_upload(
                *target,
                upload,
                parts,
                copy.writing(),
                if_match=copy.if_match,
                if_none_match=copy.if_none_match,
            )
        except BaseException:
            await self._drop(target, upload, copying)
            raise

    async def _drop(self, target: Name, upload: str, copying: Sequence[asyncio.Future[UploadedPart]]) -> None:
        """Remove an upload, when no part of it is being copied any more: such a part would stay."""
        for each in copying:
            each.cancel()
        await asyncio.wait(copying)
        with suppress(MilenaError):  # the error that comes first counts
            await self._objects.abort_upload(*target, upload, ABORT_SECONDS)
