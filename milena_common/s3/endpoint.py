"""Coordination. What an S3 endpoint does for a request: who sent it, may they, and what is the reply.

A read of an object in memory is replied to without a task or an await. Everything else runs in a coroutine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from typing import Any, Final

from milena_common.access.access import Access
from milena_common.access.api_guard import ApiGuard
from milena_common.api.byte_range import WHOLE, ByteRange
from milena_common.api.errors import MilenaError, RangeNotSatisfiable
from milena_common.api.methods import DELETE, GET, LIST, PUT
from milena_common.limits.byte_budget import ByteBudget
from milena_common.s3.body import checksums
from milena_common.s3.body.received import Body, receive
from milena_common.s3.callers import Caller, Callers
from milena_common.s3.copying import Copies
from milena_common.s3.counts import EndpointCounts
from milena_common.s3.listing import list_document, list_request
from milena_common.s3.multipart import MultipartUploads
from milena_common.s3.objects import Found, Listed, Objects
from milena_common.s3.replies import Reply, error_reply, xml_reply
from milena_common.s3.signing.signatures import Verifier
from milena_common.s3.wire.conditions import (
    check_read,
    delete_condition,
    http_date,
    matches,
    requested_range,
    unsatisfiable,
    write_condition,
)
from milena_common.s3.wire.errors import S3Error, error_of
from milena_common.s3.wire.kept_properties import durability_of, properties_of
from milena_common.s3.wire.request import Operation, S3Request, not_allowed, operation_of
from milena_common.s3.wire.xml_input import MAX_BYTES, Delete, parse_delete
from milena_common.s3.wire.xml_output import (
    ATTRIBUTES,
    acl_document,
    attributes_document,
    buckets_document,
    delete_document,
    document,
)

# Bytes that are read of an object at a time; a smaller one is read at once. The next ones are read ahead meanwhile.
PIECE_BYTES: Final = 2**20
# Seconds that a write may take, if REQUEST_TIMEOUT_SECONDS is shorter: clients wait for a minute.
WRITE_SECONDS: Final = 30.0
# Deletes of one DeleteObjects that run at a time.
MAX_DELETING: Final = 32
DEFAULT_TYPE: Final = "binary/octet-stream"

_OVERRIDES: Final = tuple(
    (f"response-{name}", name)
    for name in (
        *("cache-control", "content-disposition", "content-encoding", "content-language", "content-type"),
        "expires",
    )
)


class Endpoint:
    """The endpoint of one process.

    - `anonymous`: True if requests without a signature are those of the default user.
    - `domain`: buckets may be named in its subdomains; "" if only in paths.
    - `region`: what GetBucketLocation returns is empty in us-east-1.
    - `wall`: returns seconds since 1970.
    """

    def __init__(
        self,
        objects: Objects,
        access: Access,
        guard: ApiGuard,
        verifier: Verifier,
        budget: ByteBudget,
        *,
        anonymous: bool,
        domain: str,
        region: str,
        timeout: float,
        max_value_bytes: int,
        counts: EndpointCounts | None = None,
    ) -> None:
        self.counts = counts or EndpointCounts()
        self._objects = objects
        self._callers = Callers(access, guard, verifier, anonymous=anonymous)
        self._budget = budget
        self._pieces_budget = ByteBudget(budget.limit // 2)
        self._domain = domain
        self._region = region
        self._timeout = timeout
        self._write_timeout = max(timeout, WRITE_SECONDS)
        self._max_value_bytes = max_value_bytes
        shared = objects, self._callers, budget, timeout, self._write_timeout, max_value_bytes
        self._uploads = MultipartUploads(*shared, self.counts)
        self._copies = Copies(*shared)

    def handle(self, request: S3Request, body: Body) -> Reply | Coroutine[Any, Any, Reply]:
        """Return the reply, or a coroutine of it. Raises nothing but what is a defect."""
        try:
            operation = operation_of(request, self._domain)
        except S3Error as error:
            self.counts.request("other")
            return error_reply(request, error)
        try:
            self.counts.request(operation.name)
            caller = self._callers.identify(request)
            if operation.bucket and not self._objects.serves(operation.bucket) and operation.name != "CreateBucket":
                raise S3Error("NoSuchBucket", "The specified bucket does not exist")
            if operation.name == "GetObject":
                return self._get(request, operation, caller)
            return self._caught(request, self._other(request, operation, caller, body))
        except S3Error as error:
            return error_reply(request, error)
        except MilenaError as error:
            return error_reply(request, error_of(error))

    async def _caught(self, request: S3Request, replying: Awaitable[Reply]) -> Reply:
        try:
            return await replying
        except S3Error as error:
            return error_reply(request, error)
        except MilenaError as error:
            return error_reply(request, error_of(error))

    # ---- reads

    def _get(self, request: S3Request, operation: Operation, caller: Caller) -> Reply | Coroutine[Any, Any, Reply]:
        self._callers.authorize(caller, GET.name, operation.bucket, operation.key)
        requested = requested_range(request.headers.get("range", ""))
        if (
            "cache-control" in request.headers
            or "x-milena-max-age" in request.headers
            or "if-range" in request.headers
        ):
            return self._caught(request, self._confirmed(request, operation, caller, requested))
        try:
            found = self._objects.read(
                operation.bucket, operation.key, requested or WHOLE, PIECE_BYTES, self._timeout
            )
        except RangeNotSatisfiable:
            # The reply has the object's size, and its conditions come first.
            found = self._objects.describe(operation.bucket, operation.key, self._timeout)
        if isinstance(found, Found):
            return self._got(request, operation, caller, requested, found)
        return self._caught(request, self._fetched(request, operation, caller, requested, found))

    async def _fetched(
        self,
        request: S3Request,
        operation: Operation,
        caller: Caller,
        requested: ByteRange | None,
        reading: Awaitable[Found],
    ) -> Reply:
        try:
            found = await reading
        except RangeNotSatisfiable:
            found = await self._objects.describe(operation.bucket, operation.key, self._timeout)
        return self._got(request, operation, caller, requested, found)

    async def _read(self, operation: Operation, requested: ByteRange | None) -> Found:
        try:
            found = self._objects.read(
                operation.bucket, operation.key, requested or WHOLE, PIECE_BYTES, self._timeout
            )
            return found if isinstance(found, Found) else await found
        except RangeNotSatisfiable:
            return await self._objects.describe(operation.bucket, operation.key, self._timeout)

    async def _confirmed(
        self, request: S3Request, operation: Operation, caller: Caller, requested: ByteRange | None
    ) -> Reply:
        """Return the reply to a read that has a demand on the age of what is returned, or If-Range."""
        max_age = max_age_of(request)
        if max_age == 0:
            await self._objects.confirm(operation.bucket, operation.key, self._timeout)
        found = await self._read(operation, requested)
        if max_age and found.age > max_age:
            await self._objects.confirm(operation.bucket, operation.key, self._timeout)
            found = await self._read(operation, requested)
        if_range = request.headers.get("if-range")
        if requested is not None and if_range is not None and not matches(if_range, found.etag):
            requested = None
            found = await self._read(operation, None)
        return self._got(request, operation, caller, requested, found)

    def _got(
        self,
        request: S3Request,
        operation: Operation,
        caller: Caller,
        requested: ByteRange | None,
        found: Found,
    ) -> Reply:
        if not found.exists:
            raise S3Error("NoSuchKey", "The specified key does not exist.")
        size, value = found.size, found.value
        check_read(request.headers, found.etag, found.properties.last_modified)
        start, length = _bytes_of(requested, size)
        headers = _headers_of(found)
        if request.parameters:
            _override(request, headers, signed=caller.signed is not None)
        status = 200
        if requested is not None:
            status = 206
            headers.append(("Content-Range", f"bytes {start}-{start + length - 1}/{size}"))
        self._callers.count_bytes(caller, length)
        if len(value) >= length:
            return Reply(status, headers, length, value)
        self._budget.add(len(value))
        self._pieces_budget.add(len(value))
        held = _Held((self._pieces_budget, self._budget), len(value))
        more = self._pieces(operation, found, ByteRange(start + len(value), length - len(value)), held)
        return Reply(status, headers, length, value, more, held.give_back)

    async def _pieces(
        self, operation: Operation, found: Found, rest: ByteRange, held: _Held
    ) -> AsyncIterator[bytes]:
        """Read the rest of a large object, piece by piece, each when the one before was sent.

        All pieces are of one version: a read of another one fails, and the reply ends short of its length.

        Pieces have half of the bytes in flight. With all of them: (1) slow readers' pieces have all the bytes; (2)
        the next pieces wait for room to be fetched in; (3) nothing makes room.
        """
        offset, missing = rest
        while missing:
            held.give_back()
            await held.take_all(min(missing, PIECE_BYTES), self._write_timeout)
            piece = ByteRange(offset, min(missing, PIECE_BYTES))
            reading = self._objects.read(
                operation.bucket, operation.key, piece, PIECE_BYTES, self._write_timeout, found.etag
            )
            part = reading if isinstance(reading, Found) else await reading
            if not part.exists or not part.value or part.size != found.size:
                raise S3Error("InternalError", "The object was replaced while it was read")
            offset += len(part.value)
            missing -= len(part.value)
            yield part.value

    async def _head(self, request: S3Request, operation: Operation, caller: Caller) -> Reply:
        self._callers.authorize(caller, GET.name, operation.bucket, operation.key)
        if max_age_of(request) == 0:
            await self._objects.confirm(operation.bucket, operation.key, self._timeout)
        found = await self._objects.describe(operation.bucket, operation.key, self._timeout)
        if not found.exists:
            raise S3Error("NoSuchKey", "The specified key does not exist.")
        check_read(request.headers, found.etag, found.properties.last_modified)
        requested = requested_range(request.headers.get("range", ""))
        headers, length, status = _headers_of(found), found.size, 200
        if requested is not None:
            start, length = _bytes_of(requested, found.size)
            status = 206
            headers.append(("Content-Range", f"bytes {start}-{start + length - 1}/{found.size}"))
        if request.parameters:
            _override(request, headers, signed=caller.signed is not None)
        return Reply(status, headers, length)

    async def _attributes(self, request: S3Request, operation: Operation, caller: Caller) -> Reply:
        self._callers.authorize(caller, GET.name, operation.bucket, operation.key)
        attributes = frozenset(each.strip() for each in request.header("x-amz-object-attributes").split(","))
        if attributes == {""} or not attributes <= ATTRIBUTES:
            raise S3Error(
                "InvalidArgument", f"x-amz-object-attributes: allowed are {', '.join(sorted(ATTRIBUTES))}"
            )
        found = await self._objects.describe(operation.bucket, operation.key, self._timeout)
        if not found.exists:
            raise S3Error("NoSuchKey", "The specified key does not exist.")
        check_read(request.headers, found.etag, found.properties.last_modified)
        modified = ("Last-Modified", http_date(found.properties.last_modified))
        return xml_reply(attributes_document(attributes, found.etag, found.size), (modified,))

    # ---- all else

    async def _other(self, request: S3Request, operation: Operation, caller: Caller, body: Body) -> Reply:
        match operation.name:
            case "HeadObject":
                return await self._head(request, operation, caller)
            case "PutObject":
                return await self._put(request, operation, caller, body)
            case "DeleteObject":
                return await self._delete(request, operation, caller)
            case "DeleteObjects":
                return await self._delete_objects(request, operation, caller, body)
            case "CopyObject":
                return await self._copies.copy(request, operation, caller)
            case "GetObjectAttributes":
                return await self._attributes(request, operation, caller)
            case "CreateMultipartUpload":
                return await self._uploads.create(request, operation, caller)
            case "UploadPart":
                return await self._uploads.add_part(request, operation, caller, body)
            case "UploadPartCopy":
                return await self._uploads.copy_part(request, operation, caller)
            case "CompleteMultipartUpload":
                return await self._uploads.complete(request, operation, caller, body)
            case "AbortMultipartUpload":
                return await self._uploads.abort_upload(request, operation, caller)
            case "ListParts":
                return await self._uploads.list_parts(request, operation, caller)
            case "ListMultipartUploads":
                return await self._uploads.list_uploads(request, operation, caller)
            case "ListObjects" | "ListObjectsV2":
                return await self._list(request, operation, caller)
            case "ListBuckets":
                return xml_reply(buckets_document(self._objects.buckets(), caller.principal.name))
            case "HeadBucket":
                await self._objects.check_bucket(operation.bucket, self._timeout)
                return Reply(200, [("x-amz-bucket-region", self._region)])
            case "GetBucketLocation":
                await self._objects.check_bucket(operation.bucket, self._timeout)
                return xml_reply(
                    document("LocationConstraint", "" if self._region == "us-east-1" else self._region)
                )
            case "GetBucketVersioning":
                return xml_reply(document("VersioningConfiguration"))
            case "GetBucketRequestPayment":
                return xml_reply(document("RequestPaymentConfiguration", "<Payer>BucketOwner</Payer>"))
            case "GetAcl":
                return xml_reply(acl_document(caller.principal.name))
            case "PutObjectAcl":
                return Reply(200, [])
            case "CreateBucket":
                raise self._bucket_exists(operation.bucket)
        raise not_allowed(request)

    def _bucket_exists(self, bucket: str) -> S3Error:
        if self._objects.serves(bucket):
            text = "Your previous request to create the named bucket succeeded and you already own it."
            return S3Error("BucketAlreadyOwnedByYou", text)
        return S3Error("AccessDenied", "Buckets cannot be created here: S3_BUCKETS says which are served")

    async def _put(self, request: S3Request, operation: Operation, caller: Caller, body: Body) -> Reply:
        self._callers.authorize(caller, PUT.name, operation.bucket, operation.key)
        if_match, if_none_match = write_condition(request.headers)
        properties = properties_of(request.headers)
        durability = durability_of(request.headers)
        payload = caller.payload(request)
        async with receive(
            request, body, payload, caller.chunks, self._budget, self._max_value_bytes, self._timeout
        ) as received:
            verified = checksums.verify(received.value, request.headers, received.trailers, payload)
            written = await self._objects.put(
                operation.bucket,
                operation.key,
                received.value,
                self._write_timeout,
                durability=durability,
                if_match=if_match,
                if_none_match=if_none_match,
                properties=properties,
            )
            self._callers.count_bytes(caller, len(received.value))
        headers = [
            ("ETag", written.etag),
            ("x-milena-durability", written.durability),
            ("x-milena-node", written.node),
        ]
        headers += [(f"{checksums.PREFIX}{algorithm}", value) for algorithm, value in verified.items()]
        return Reply(200, headers)

    async def _delete(self, request: S3Request, operation: Operation, caller: Caller) -> Reply:
        self._callers.authorize(caller, DELETE.name, operation.bucket, operation.key)
        if_match = delete_condition(request.headers)
        written = await self._objects.delete(
            operation.bucket,
            operation.key,
            self._write_timeout,
            durability=durability_of(request.headers),
            if_match=if_match,
        )
        return Reply(204, [("x-milena-durability", written.durability), ("x-milena-node", written.node)])

    async def _delete_objects(self, request: S3Request, operation: Operation, caller: Caller, body: Body) -> Reply:
        payload = caller.payload(request)
        async with receive(
            request, body, payload, caller.chunks, self._budget, MAX_BYTES, self._timeout
        ) as received:
            checksums.verify(received.value, request.headers, received.trailers, payload)
            deletes, quiet = parse_delete(received.value)
        durability = durability_of(request.headers)
        places = asyncio.Semaphore(MAX_DELETING)

        async def delete(each: Delete) -> S3Error | None:
            async with places:
                return await self._delete_one(operation.bucket, caller, each, durability)

        results = await asyncio.gather(*[delete(each) for each in deletes])
        pairs = list(zip(deletes, results, strict=True))
        errors = [(each.key, error) for each, error in pairs if error is not None]
        return xml_reply(
            delete_document([] if quiet else [each.key for each, error in pairs if error is None], errors)
        )

    async def _delete_one(self, bucket: str, caller: Caller, delete: Delete, durability: str) -> S3Error | None:
        key = delete.key.encode()
        try:
            self._callers.authorize(caller, DELETE.name, bucket, key)
            condition = write_condition({"if-match": delete.etag})[0] if delete.etag else ""
            await self._objects.delete(bucket, key, self._write_timeout, durability=durability, if_match=condition)
        except S3Error as error:
            return error
        except MilenaError as error:
            return error_of(error)
        return None

    async def _list(self, request: S3Request, operation: Operation, caller: Caller) -> Reply:
        self._callers.authorize(caller, LIST.name, operation.bucket)
        listing = list_request(request, operation.bucket)
        page = Listed((), (), "")
        if listing.limit:
            cursor, after = listing.cursor, listing.after
            while True:
                page = await self._objects.list_page(
                    operation.bucket,
                    listing.prefix.encode(),
                    listing.delimiter.encode(),
                    cursor,
                    after,
                    listing.limit,
                    self._write_timeout,
                )
                page = self._visible(caller, operation.bucket, page)
                # A page without names would say that there is nothing: clients look for one name in this way.
                if page.items or page.prefixes or not page.cursor:
                    break
                cursor, after = page.cursor, ""
        content = list_document(listing, page, listing.cursor, caller.principal.name)
        return xml_reply(content)

    def _visible(self, caller: Caller, bucket: str, page: Listed) -> Listed:
        """Return a page without what the caller may not see."""
        sees, sees_prefix = self._callers.sight(caller, bucket)
        items = [each for each in page.items if sees(each.key)]
        return Listed(items, [each for each in page.prefixes if sees_prefix(each)], page.cursor)


class _Held:
    """Bytes that a reply holds, of each of the budgets."""

    __slots__ = ("_budgets", "_size")

    def __init__(self, budgets: Sequence[ByteBudget], size: int) -> None:
        self._budgets = budgets
        self._size = size

    async def take_all(self, size: int, timeout: float) -> None:
        """Wait up to `timeout` seconds for room for `size` bytes in each. Raises Overloaded."""
        taken: list[ByteBudget] = []
        try:
            for budget in self._budgets:
                await budget.take(size, timeout / len(self._budgets))
                taken.append(budget)
        except BaseException:
            for budget in taken:
                budget.release(size)
            raise
        self._size = size

    def give_back(self) -> None:
        size, self._size = self._size, 0
        if size:
            for budget in self._budgets:
                budget.release(size)


def _bytes_of(requested: ByteRange | None, size: int) -> ByteRange:
    """Return the bytes of an object of `size` bytes that are asked for. Raises S3Error if there are none."""
    if requested is not None and not size:
        raise unsatisfiable(size)  # also for `bytes=0-`, which is no range that `within` refuses
    try:
        return (requested or WHOLE).within(size)
    except RangeNotSatisfiable:
        raise unsatisfiable(size) from None


def max_age_of(request: S3Request) -> float | None:
    """Return the greatest age of a reply that the caller accepts, in seconds; None for any. Raises S3Error."""
    if "no-cache" in request.header("cache-control").lower():
        return 0
    text = request.header("x-milena-max-age")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise S3Error("InvalidArgument", "x-milena-max-age: allowed are whole numbers of seconds")
    return int(text)


def _headers_of(found: Found) -> list[tuple[str, str]]:
    properties = found.properties
    headers = [
        ("Last-Modified", http_date(properties.last_modified)),
        ("Accept-Ranges", "bytes"),
        ("Age", str(int(found.age))),
        ("x-milena-outcome", found.outcome),
        ("x-milena-node", found.node),
    ]
    if found.etag:
        headers.append(("ETag", found.etag))
    if properties.headers:
        headers += properties.headers.items()
    if "content-type" not in properties.headers:
        headers.append(("content-type", DEFAULT_TYPE))
    if properties.metadata:
        headers += [(f"x-amz-meta-{name}", value) for name, value in properties.metadata.items()]
    return headers


def _override(request: S3Request, headers: list[tuple[str, str]], *, signed: bool) -> None:
    """Apply `response-content-type` and the like, which only a signed request may have."""
    for parameter, name in _OVERRIDES:
        value = request.parameter(parameter)
        if not value:
            continue
        if not signed:
            raise S3Error(
                "InvalidRequest", "Request specific response headers cannot be used for anonymous requests"
            )
        if not (value.isascii() and value.isprintable()):
            raise S3Error("InvalidArgument", f"{parameter}: allowed are printable ASCII characters")
        headers[:] = [pair for pair in headers if pair[0] != name]
        headers.append((name, value))
