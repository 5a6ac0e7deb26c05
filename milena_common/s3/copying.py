"""Coordination. CopyObject through an S3 endpoint.

The source is what S3 has, or the newest write that S3 does not have yet. A small object is read and written as by
two requests of a client, so that its copy is in the durability class of a put. A larger one is copied by S3, in
parts, and its bytes do not come here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from milena_common.api.byte_range import WHOLE, ByteRange
from milena_common.api.errors import ConditionFailed, MilenaError
from milena_common.api.methods import GET, PUT
from milena_common.api.properties import Properties
from milena_common.api.uploads import UploadedPart
from milena_common.limits.byte_budget import ByteBudget
from milena_common.s3.body.received import COPIES
from milena_common.s3.callers import Caller, Callers
from milena_common.s3.multipart import check_source
from milena_common.s3.objects import Found, Objects, Written
from milena_common.s3.replies import Reply, xml_reply
from milena_common.s3.wire.conditions import write_condition
from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.kept_properties import durability_of, properties_of
from milena_common.s3.wire.request import Operation, S3Request, copy_source
from milena_common.s3.wire.xml_output import copied_document

# A larger object is copied by S3.
SMALL_BYTES: Final = 8 * 2**20
PART_BYTES: Final = 256 * 2**20
# Parts of one object that S3 copies at a time.
MAX_COPYING: Final = 4
# How often a source may be replaced while it is copied.
MAX_CHANGES: Final = 3

_DIRECTIVE: Final = "x-amz-metadata-directive"
_TAGS: Final = "x-amz-tagging-directive"


class Copies:
    """The copies of one endpoint. `timeout`, `write_timeout`: seconds for reads and for writes."""

    def __init__(
        self,
        objects: Objects,
        callers: Callers,
        budget: ByteBudget,
        timeout: float,
        write_timeout: float,
        max_value_bytes: int,
    ) -> None:
        self._objects = objects
        self._callers = callers
        self._budget = budget
        self._timeout = timeout
        self._write_timeout = write_timeout
        self._small = min(SMALL_BYTES, max_value_bytes)

    async def copy(self, request: S3Request, operation: Operation, caller: Caller) -> Reply:
        """Copy an object, with its properties or, by the directive REPLACE, with those of the request."""
        target, source = (operation.bucket, operation.key), copy_source(request)
        self._callers.authorize(caller, PUT.name, *target)
        self._callers.authorize(caller, GET.name, *source)
        if not self._objects.serves(source[0]):
            raise S3Error("NoSuchBucket", "The specified bucket does not exist")
        directive = request.header(_DIRECTIVE) or "COPY"
        if directive not in ("COPY", "REPLACE"):
            raise S3Error("InvalidArgument", "Unknown metadata directive.")
        if directive == "COPY" and source == target:
            raise S3Error(
                "InvalidRequest",
                "This copy request is illegal because it is trying to copy an object to itself without changing "
                "the object's metadata, storage class, website redirect location or encryption attributes.",
            )
        own = {name: text for name, text in request.headers.items() if (name, text) != (_TAGS, "COPY")}
        replaced = properties_of(own)
        for _ in range(MAX_CHANGES):
            await self._objects.confirm(*source, self._timeout)
            found = await self._objects.describe(*source, self._timeout)
            if not found.exists:
                raise S3Error("NoSuchKey", "The specified key does not exist.")
            check_source(request, found.etag, found.properties.last_modified)
            properties = found.properties._replace(last_modified=0.0) if directive == "COPY" else replaced
            written = await self._copied(request, caller, source, found, target, properties)
            if written is not None:
                content = copied_document("CopyObjectResult", written.etag, request.arrived_at)
                node = ("x-milena-durability", written.durability), ("x-milena-node", written.node)
                return xml_reply(content, node)
        raise S3Error("SlowDown", f"The source was replaced {MAX_CHANGES} times while it was copied")

    async def _copied(
        self,
        request: S3Request,
        caller: Caller,
        source: tuple[str, bytes],
        found: Found,
        target: tuple[str, bytes],
        properties: Properties,
    ) -> Written | None:
        """Return the copy of the source as it was `found`; None if it is another one by now."""
        if_match, if_none_match = write_condition(request.headers)
        if found.size > self._small:
            return await self._copied_by_s3(source, found, target, properties, if_match, if_none_match)
        durability = durability_of(request.headers)
        await self._budget.take(COPIES * found.size, self._timeout)
        try:
            try:
                reading = self._objects.read(*source, WHOLE, SMALL_BYTES, self._timeout, found.etag)
                got = reading if isinstance(reading, Found) else await reading
            except ConditionFailed:
                return None
            if not got.exists or len(got.value) != found.size:
                return None
            self._callers.count_bytes(caller, 2 * found.size)
            return await self._objects.put(
                *target,
                got.value,
                self._write_timeout,
                durability=durability,
                if_match=if_match,
                if_none_match=if_none_match,
                properties=properties,
            )
        finally:
            self._budget.release(COPIES * found.size)

    async def _copied_by_s3(
        self,
        source: tuple[str, bytes],
        found: Found,
        target: tuple[str, bytes],
        properties: Properties,
        if_match: str,
        if_none_match: str,
    ) -> Written | None:
        objects = self._objects
        upload = await objects.create_upload(*target, self._write_timeout, properties=properties)
        places = asyncio.Semaphore(MAX_COPYING)

        async def copy_part(number: int, offset: int) -> UploadedPart:
            async with places:
                part = ByteRange(offset, min(PART_BYTES, found.size - offset))
                return await objects.copy_part(
                    *target, upload, number, source, part, self._write_timeout, if_match=found.etag
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
                *target, upload, parts, self._write_timeout, if_match=if_match, if_none_match=if_none_match
            )
        except BaseException:
            await self._drop(target, upload, copying)
            raise

    async def _drop(
        self, target: tuple[str, bytes], upload: str, copying: Sequence[asyncio.Future[UploadedPart]]
    ) -> None:
        """Remove an upload, when no part of it is being copied any more: such a part would stay."""
        for each in copying:
            each.cancel()
        await asyncio.wait(copying)
        with suppress(MilenaError):  # the error that comes first counts
            await self._objects.abort_upload(*target, upload, self._write_timeout)
