"""Coordination. Multipart uploads through an S3 endpoint.

A part of more than SMALL_BYTES is passed on to S3 while it comes (`streamed`), with at most `streamed.MEMORY_BYTES`
in memory, however large it is; S3 has nothing of one that does not match its digests. A smaller one, and one of an
unknown length, is received first, so that its request to S3 can be repeated.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from milena_common.api.byte_range import MAX_OFFSET, WHOLE, ByteRange
from milena_common.api.methods import GET, LIST, UPLOAD
from milena_common.api.uploads import MAX_PARTS
from milena_common.limits.byte_budget import ByteBudget
from milena_common.s3.body import checksums
from milena_common.s3.body.aws_chunked import AwsChunked
from milena_common.s3.body.received import Body, decoder_of, length_of, receive
from milena_common.s3.body.streamed import MEMORY_BYTES, StreamedBody
from milena_common.s3.callers import Caller, Callers
from milena_common.s3.counts import EndpointCounts
from milena_common.s3.listing import MAX_KEYS, uploads_document, uploads_request, whole_number
from milena_common.s3.objects import Objects
from milena_common.s3.replies import Reply, xml_reply
from milena_common.s3.wire.conditions import check_read, write_condition
from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.kept_properties import properties_of
from milena_common.s3.wire.request import Operation, S3Request, copy_source
from milena_common.s3.wire.xml_input import MAX_BYTES, parse_parts
from milena_common.s3.wire.xml_output import (
    completed_document,
    copied_document,
    created_document,
    parts_document,
)

SMALL_BYTES: Final = 2**20
# S3's limit for a part.
MAX_PART_BYTES: Final = 5 * 2**30
MAX_UPLOAD_ID: Final = 2048

_RANGE: Final = re.compile(r"bytes=(\d{1,19})-(\d{1,19})")
_SOURCE: Final = "x-amz-copy-source-"


class MultipartUploads:
    """The operations on uploads. `timeout`, `write_timeout`: seconds to wait for room, and for a request to S3."""

    def __init__(
        self,
        objects: Objects,
        callers: Callers,
        budget: ByteBudget,
        timeout: float,
        write_timeout: float,
        max_value_bytes: int,
        counts: EndpointCounts,
    ) -> None:
        self._counts = counts
        self._objects = objects
        self._callers = callers
        self._budget = budget
        self._timeout = timeout
        self._write_timeout = write_timeout
        self._max_value_bytes = max_value_bytes

    async def create(self, request: S3Request, operation: Operation, caller: Caller) -> Reply:
        """Begin an upload."""
        bucket, key = operation.bucket, operation.key
        self._callers.authorize(caller, UPLOAD.name, bucket, key)
        properties = properties_of(request.headers)
        upload = await self._objects.create_upload(bucket, key, self._write_timeout, properties=properties)
        return xml_reply(created_document(bucket, key.decode(), upload))

    async def add_part(self, request: S3Request, operation: Operation, caller: Caller, body: Body) -> Reply:
        """Store a part, as it comes."""
        self._callers.authorize(caller, UPLOAD.name, operation.bucket, operation.key)
        upload, number = _upload_of(request), _part_number(request)
        decoder = decoder_of(request, caller.payload(request), caller.chunks)
        length = length_of(request, body, decoder)
        if length is None or length <= SMALL_BYTES:
            return await self._add_small_part(request, operation, caller, body, upload, number)
        if length > MAX_PART_BYTES:
            raise S3Error("EntityTooLarge", f"A part has at most {MAX_PART_BYTES} bytes")
        digests = checksums.Digests(request.headers, caller.payload(request), with_md5=True)
        await self._budget.take(MEMORY_BYTES, self._timeout)
        self._counts.streamed += 1
        try:
            streamed = StreamedBody(length, digests)
            etag = await self._stream(operation, upload, number, body, decoder, streamed)
        finally:
            self._counts.streamed -= 1
            self._budget.release(MEMORY_BYTES)
        self._callers.count_bytes(caller, length)
        return _part_reply(etag, dict(streamed.verified))

    async def _stream(
        self,
        operation: Operation,
        upload: str,
        number: int,
        body: Body,
        decoder: AwsChunked | None,
        streamed: StreamedBody,
    ) -> str:
        """Pass a part on while it comes, and return its ETag. Raises the error of the body, else that of S3."""
        loop = asyncio.get_running_loop()
        filling = loop.create_task(streamed.fill(body, decoder))
        try:
            return await self._objects.upload_part(
                operation.bucket, operation.key, upload, number, streamed, self._write_timeout
            )
        except Exception:
            # A body that does not come, or is another one, fails its request to S3: that is only the consequence.
            if isinstance(streamed.error, S3Error | ConnectionError):
                raise streamed.error from None
            raise
        finally:
            # Also wakes the thread that waits for the body, if this was cancelled.
            streamed.fail(ConnectionAbortedError("the request has ended"))
            filling.cancel()
            await asyncio.wait((filling,))
            if not filling.cancelled():
                filling.exception()  # marks it as retrieved

    async def _add_small_part(
        self, request: S3Request, operation: Operation, caller: Caller, body: Body, upload: str, number: int
    ) -> Reply:
        payload = caller.payload(request)
        async with receive(
            request, body, payload, caller.chunks, self._budget, self._max_value_bytes, self._timeout
        ) as received:
            verified = checksums.verify(received.value, request.headers, received.trailers, payload)
            etag = await self._objects.upload_part(
                operation.bucket, operation.key, upload, number, received.value, self._write_timeout
            )
            self._callers.count_bytes(caller, len(received.value))
        return _part_reply(etag, verified)

    async def copy_part(self, request: S3Request, operation: Operation, caller: Caller) -> Reply:
        """Store a part of another object."""
        self._callers.authorize(caller, UPLOAD.name, operation.bucket, operation.key)
        upload, number = _upload_of(request), _part_number(request)
        source = copy_source(request)
        self._callers.authorize(caller, GET.name, *source)
        if not self._objects.serves(source[0]):
            raise S3Error("NoSuchBucket", "The specified bucket does not exist")
        await self._objects.confirm(*source, self._timeout)
        found = await self._objects.describe(*source, self._timeout)
        if not found.exists:
            raise S3Error("NoSuchKey", "The specified key does not exist.")
        check_source(request, found.etag, found.properties.last_modified)
        part = await self._objects.copy_part(
            operation.bucket,
            operation.key,
            upload,
            number,
            source,
            _source_range(request, found.size),
            self._write_timeout,
            if_match=found.etag,
        )
        return xml_reply(copied_document("CopyPartResult", part.etag, part.last_modified))

    async def complete(self, request: S3Request, operation: Operation, caller: Caller, body: Body) -> Reply:
        """Make the object."""
        bucket, key = operation.bucket, operation.key
        self._callers.authorize(caller, UPLOAD.name, bucket, key)
        upload = _upload_of(request)
        if_match, if_none_match = write_condition(request.headers)
        payload = caller.payload(request)
        async with receive(
            request, body, payload, caller.chunks, self._budget, MAX_BYTES, self._timeout
        ) as received:
            # Its x-amz-checksum-… are not of this body, but of the object.
            own = {name: value for name, value in request.headers.items() if not name.startswith(checksums.PREFIX)}
            checksums.verify(received.value, own, received.trailers, payload)
            parts = parse_parts(received.value)
        written = await self._objects.complete_upload(
            bucket, key, upload, parts, self._write_timeout, if_match=if_match, if_none_match=if_none_match
        )
        location = f"http://{request.header('host')}{request.path}"
        content = completed_document(location, bucket, key.decode(), written.etag)
        return xml_reply(content, (("x-milena-durability", written.durability), ("x-milena-node", written.node)))

    async def abort_upload(self, request: S3Request, operation: Operation, caller: Caller) -> Reply:
        """Drop an upload."""
        self._callers.authorize(caller, UPLOAD.name, operation.bucket, operation.key)
        upload = _upload_of(request)
        await self._objects.abort_upload(operation.bucket, operation.key, upload, self._write_timeout)
        return Reply(204, [])

    async def list_parts(self, request: S3Request, operation: Operation, caller: Caller) -> Reply:
        """List the parts of an upload, which is for its writer."""
        bucket, key = operation.bucket, operation.key
        self._callers.authorize(caller, UPLOAD.name, bucket, key)
        upload = _upload_of(request)
        after = whole_number(request, "part-number-marker", 0)
        limit = max(1, min(whole_number(request, "max-parts", MAX_KEYS), MAX_KEYS))
        page = await self._objects.list_parts(bucket, key, upload, after, limit, self._write_timeout)
        user = caller.principal.name
        return xml_reply(parts_document(bucket, key.decode(), upload, after, limit, page, user))

    async def list_uploads(self, request: S3Request, operation: Operation, caller: Caller) -> Reply:
        """List the uploads of a bucket, as far as the caller may see their keys."""
        bucket = operation.bucket
        self._callers.authorize(caller, LIST.name, bucket)
        listing = uploads_request(request, bucket)
        page = await self._objects.list_uploads(
            bucket, listing.prefix, listing.delimiter, listing.after, listing.limit, self._write_timeout
        )
        sees, sees_prefix = self._callers.sight(caller, bucket)
        page = page._replace(
            uploads=[each for each in page.uploads if sees(each.key)],
            prefixes=[each for each in page.prefixes if sees_prefix(each)],
        )
        return xml_reply(uploads_document(listing, page, caller.principal.name))


def _upload_of(request: S3Request) -> str:
    upload = request.parameter("uploadId")
    if not upload or len(upload) > MAX_UPLOAD_ID:
        raise S3Error("NoSuchUpload", "The specified upload does not exist.")
    return upload


def _part_number(request: S3Request) -> int:
    number = whole_number(request, "partNumber", 0)
    if not 0 < number <= MAX_PARTS:
        raise S3Error("InvalidArgument", f"Part number must be an integer between 1 and {MAX_PARTS}, inclusive")
    return number


def _part_reply(etag: str, verified: dict[str, str]) -> Reply:
    headers = [(f"{checksums.PREFIX}{algorithm}", value) for algorithm, value in verified.items()]
    return Reply(200, [("ETag", etag), *headers])


def check_source(request: S3Request, etag: str, last_modified: float) -> None:
    """Raise S3Error, PreconditionFailed, unless a copy's conditions hold for its source."""
    conditions = {
        name.removeprefix(_SOURCE): value
        for name, value in request.headers.items()
        if name.startswith(f"{_SOURCE}if-")
    }
    try:
        check_read(conditions, etag, last_modified)
    except S3Error as error:
        # There is no "304 Not Modified" of a copy.
        raise S3Error("PreconditionFailed", error.message or "The conditions on the source do not hold") from None


def _source_range(request: S3Request, size: int) -> ByteRange:
    """Return the bytes of a source of `size` bytes that are copied. Raises S3Error."""
    text = request.header(f"{_SOURCE}range")
    if not text:
        return WHOLE
    match = _RANGE.fullmatch(text.strip())
    first, last = (int(match[1]), int(match[2])) if match else (1, 0)
    if last < first:
        raise S3Error("InvalidArgument", "The x-amz-copy-source-range value must be of the form bytes=first-last")
    if last >= size or last > MAX_OFFSET:
        raise S3Error("InvalidArgument", f"Range specified is not valid for source object of size: {size}")
    return ByteRange(first, last - first + 1)
