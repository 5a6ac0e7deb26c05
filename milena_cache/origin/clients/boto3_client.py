"""Shell. `ObjectStore` over boto3: exact for every key that S3 accepts, listing, buckets, credentials.

boto3 blocks, so calls run on threads. New credentials get new clients, which are created on a thread too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import botocore.exceptions as botocore_errors
from cachetools import LRUCache

from milena_cache.objects.object_store import (
    MAX_STREAMS,
    NO_ATTRIBUTES,
    NO_METADATA,
    Absent,
    Fault,
    Info,
    OriginFailure,
    Page,
    PartStream,
    Ref,
    Stored,
    ignore,
    part_too_large,
    too_large,
)
from milena_cache.origin.clients.boto3_bodies import has_body_end, read_all, size_by_reading
from milena_cache.origin.clients.boto3_errors import judge, region_of
from milena_cache.origin.clients.boto3_session import THREADS, make_client
from milena_cache.origin.clients.boto3_uploads import (
    copy_part,
    list_parts,
    list_uploads,
    seconds_of,
    stream_part,
)
from milena_cache.origin.s3.attributes import attributes_of, sendable
from milena_cache.origin.s3.clock import S3Clock, date_of
from milena_cache.origin.s3.credentials import Credentials, CredentialsUnavailable, Held
from milena_cache.origin.s3.fetch_bytes import UNBOUNDED, fetch_bytes
from milena_cache.origin.s3.ranges import range_header, whole_size
from milena_cache.origin.s3.responses import error_document, is_error_document, meaning
from milena_cache.origin.s3.settings import S3Settings
from milena_common.api.byte_range import ByteRange
from milena_common.api.uploads import PartsPage, UploadedPart, UploadsPage
from milena_common.limits.byte_budget import ByteBudget
from milena_common.runtime.clock import SystemClock

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

# The number of buckets with cached regions.
MAX_BUCKETS = 64
# Values of x-amz-server-side-encryption for which an ETag is not the value's MD5.
OPAQUE_ENCRYPTION = ("aws:kms", "aws:kms:dsse")


class Boto3Store:
    """S3 through boto3.

    `pooled` False: each request has its own new connection. `budget` bounds the bytes of values being read; None:
    no bound, as in tools. `clock` is set by the `Date` of every response, errors included.
    """

    def __init__(
        self,
        credentials: Credentials,
        settings: S3Settings,
        *,
        pooled: bool = True,
        budget: ByteBudget | None = None,
        clock: S3Clock | None = None,
    ) -> None:
        self._clock = clock or S3Clock()
        self._response = threading.local()
        self._pooled = pooled
        self._credentials = credentials
        self._held: Held | None = None
        self._proxy = ""
        self._settings = settings
        self._budget = budget or ByteBudget(UNBOUNDED)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="boto3")
        # Threads are made as they are needed. Those of parts wait for the clients that send them.
        self._streams = ThreadPoolExecutor(MAX_STREAMS, thread_name_prefix="boto3-parts")
        # By region; few, since only regions that S3 has named are used.
        self._clients: dict[tuple[str, bool], S3Client] = {}
        self._regions: LRUCache[str, str] = LRUCache(MAX_BUCKETS)
        # True if this S3 adds request ids to its responses: then one without is not from S3.
        self._gives_request_ids = False

    def region(self, bucket: str) -> str:
        """Return the region for which requests about `bucket` are signed."""
        return self._regions.get(bucket, self._settings.region)

    def use_region(self, bucket: str, region: str) -> None:
        """Sign later requests about `bucket` for `region`; without an endpoint they are also sent there."""
        self._regions[bucket] = region

    def _client(self, region: str, held: Held, *, streaming: bool = False) -> S3Client:
        """Return the client for a region with these credentials, created at their first use.

        `streaming`: it signs no bodies, which are not known when their requests begin.
        """
        with self._credentials.making:
            proxy = self._credentials.proxy.url()
            if self._held is None or self._held[:3] != held[:3] or self._proxy != proxy:
                self._held, self._proxy = held, proxy
                self._clients.clear()
            made = self._clients.get((region, streaming))
            if made is None:
                made = make_client(self._settings, region, held, proxy, signs_bodies=not streaming)
                made.meta.events.register("after-call.s3", self._from_response)
                self._clients[region, streaming] = made
            return made

    def _from_response(self, http_response: Any, **_: Any) -> None:
        """Take the time of day from the response to the request that this thread has sent."""
        date = date_of(http_response.headers.get("date", ""))
        if date is not None:
            self._response.date = date
            self._clock.observed(date, self._response.requested_at, SystemClock.now())

    async def _call(
        self,
        operation: str,
        ref: Ref,
        work: Callable[[S3Client], T],
        *,
        conditional: bool = False,
        ranged: bool = False,
        streaming: bool = False,
    ) -> T | Absent:
        """Run `work` on a thread; return its result, or an Absent by S3's error code.

        Raises OriginFailure otherwise.
        """

        region = self.region(ref.bucket)
        try:
            held = await self._credentials.obtain()
        except CredentialsUnavailable as error:
            raise OriginFailure(Fault.ACCOUNT, operation, ref, "NoCredentials", "local", str(error)) from None

        def run() -> T:
            client = self._client(region, held, streaming=streaming)
            if not self._pooled:
                client.close()  # closes idle connections; those in use are closed when their requests end
            self._response.requested_at, self._response.date = SystemClock.now(), None
            return work(client)

        try:
            threads = self._streams if streaming else self._threads
            return await asyncio.get_running_loop().run_in_executor(threads, run)
        except Exception as error:
            said = judge(operation, ref, error, conditional=conditional, ranged=ranged)
            if said is None:
                raise
            if isinstance(said, Absent):
                return said
            try:
                raise said.redacted(self._credentials.redact) from None
            finally:
                del said  # else it and this frame would be a reference cycle, as in `obstore_client`

    async def _write(
        self,
        operation: str,
        ref: Ref,
        work: Callable[[S3Client], T],
        *,
        conditional: bool = False,
        streaming: bool = False,
    ) -> T:
        """Run a write, as `_call`, where an Absent is impossible."""
        done = await self._call(operation, ref, work, conditional=conditional, streaming=streaming)
        assert not isinstance(done, Absent)
        return done

    def _check(self, operation: str, ref: Ref, response: Any, *, partial: bool = False) -> None:
        """Raise OriginFailure if a 2xx response to a read is not from S3; headers may be missing.

        `partial`: the response has a part of the object, as was requested.
        """
        made_by = response["ResponseMetadata"]
        status, headers = made_by["HTTPStatusCode"], made_by["HTTPHeaders"]
        has_id = "x-amz-request-id" in headers
        stranger = "ETag" not in response and self._gives_request_ids and not has_id
        if status != (206 if partial else 200) or stranger:
            raise OriginFailure(Fault.UNEXPECTED, operation, ref, f"HTTP {status}, not from S3", str(status))
        self._gives_request_ids = self._gives_request_ids or has_id

    async def get(
        self,
        ref: Ref,
        *,
        if_none_match: str = "",
        if_match: str = "",
        byte_range: ByteRange | None = None,
        max_bytes: int,
        began: Callable[[], None] = ignore,
    ) -> Stored | Absent:
        loop = asyncio.get_running_loop()
        conditional, ranged = bool(if_none_match or if_match), byte_range is not None

        def begin(client: S3Client) -> tuple[S3Client, Any]:
            options: Any = {"IfNoneMatch": if_none_match} if if_none_match else {}
            if if_match:
                options["IfMatch"] = if_match
            if byte_range is not None:
                options["Range"] = range_header(byte_range)
            response: Any = client.get_object(Bucket=ref.bucket, Key=ref.key, **options)
            loop.call_soon_threadsafe(began)
            self._check("get", ref, response, partial=ranged and _status(response) == 206)
            return client, response

        begun = await self._call("get", ref, begin, conditional=conditional, ranged=ranged)
        if isinstance(begun, Absent):
            return begun
        client, response = begun
        body, length, etag = response["Body"], response.get("ContentLength"), response.get("ETag", "")
        # The size of the whole object, if the response has a part of it. A store may ignore the range; another one
        # sends the part with status 200.
        whole = None
        content_range = response.get("ContentRange", "")
        if byte_range is not None and (content_range or _status(response) == 206):
            whole = whole_size(byte_range, content_range)
            length = None if whole is None else byte_range.within(whole).length
            if whole is None or response.get("ContentLength", length) != length:
                body.close()
                raise OriginFailure(Fault.UNEXPECTED, "get", ref, "another range than the requested one", "206")

        def read(_: S3Client) -> Stored:
            size = length
            value = body.read() if size is not None else read_all(body, ref, max_bytes)
            if size is None and not has_body_end(response):
                # Only the end of the connection marks the end of the body, and the connection may have broken.
                size = client.head_object(Bucket=ref.bucket, Key=ref.key).get("ContentLength")
            if size is not None and len(value) != size:
                raise OriginFailure(Fault.INCOMPLETE, "get", ref, f"{len(value)} of {size} bytes", "incomplete")
            if not etag and is_error_document(value):
                code = error_document(value.decode(errors="replace")).code
                said = meaning("get", 200, code)
                raise OriginFailure(said if isinstance(said, Fault) else Fault.UNEXPECTED, "get", ref, code, "200")
            return Stored(value, etag, _own(response["Metadata"]), _has_opaque_etag(response), whole)

        try:
            if length is not None and length > max_bytes:
                if byte_range is not None:
                    raise part_too_large(ref, byte_range._replace(length=length), max_bytes)
                raise too_large(ref, length, max_bytes, etag, _own(response["Metadata"]))
            async with fetch_bytes(self._budget, max_bytes if length is None else length, self._settings.timeout):
                got = await self._call("get", ref, read, conditional=conditional)
                if byte_range is None or whole is not None or isinstance(got, Absent):
                    return got
                return _part(got, byte_range)
        except BaseException:
            body.close()
            raise

    async def head(self, ref: Ref) -> Info | None:
        return await self.describe(ref)

    async def describe(self, ref: Ref) -> Info | None:
        try:
            return await self.head_alone(ref)
        except OriginFailure as failure:
            if not failure.says_nothing:
                raise
            return await self.inquire(ref)

    async def head_alone(self, ref: Ref) -> Info | None:
        """Do `head` in one request; raises a failure with `says_nothing` where an error code is needed."""

        def work(client: S3Client) -> Info:
            response: Any = client.head_object(Bucket=ref.bucket, Key=ref.key)
            self._check("head", ref, response)
            info = self._info(ref, response, client)
            return replace(info, server_date=self._response.date)

        found = await self._call("head", ref, work)
        return None if isinstance(found, Absent) else found

    async def inquire(self, ref: Ref) -> Info | None:
        """Do `head` by a GET whose body is not read: its response has S3's error code."""

        def work(client: S3Client) -> Info:
            response: Any = client.get_object(Bucket=ref.bucket, Key=ref.key)
            response["Body"].close()
            self._check("get", ref, response)
            return self._info(ref, response, client)

        found = await self._call("get", ref, work)
        return None if isinstance(found, Absent) else found

    def _info(self, ref: Ref, response: Any, client: S3Client) -> Info:
        size = response.get("ContentLength")
        if size is None:
            size = size_by_reading(ref, client)
        return Info(
            ref.key,
            size,
            response.get("ETag", ""),
            seconds_of(response.get("LastModified")),
            _own(response["Metadata"]),
            attributes_of(response),
        )

    async def put(
        self,
        ref: Ref,
        value: bytes,
        *,
        if_match: str = "",
        if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
        attributes: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> str:
        def work(client: S3Client) -> str:
            condition: Any = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match else {}
            response = client.put_object(
                Bucket=ref.bucket, Key=ref.key, Body=value, Metadata=sendable(metadata), **attributes, **condition
            )
            # Without an ETag the response may not be from S3: the caller checks.
            if not response.get("ETag"):
                raise OriginFailure(Fault.UNEXPECTED, "put", ref, "no ETag", "200")
            return response["ETag"]

        return await self._write("put", ref, work, conditional=if_absent or bool(if_match))

    async def copy(
        self, ref: Ref, *, if_match: str = "", metadata: Mapping[str, str], attributes: Mapping[str, Any]
    ) -> str:
        def work(client: S3Client) -> str:
            condition: Any = {"CopySourceIfMatch": if_match} if if_match else {}
            response = client.copy_object(
                Bucket=ref.bucket,
                Key=ref.key,
                CopySource={"Bucket": ref.bucket, "Key": ref.key},
                MetadataDirective="REPLACE",
                TaggingDirective="COPY",
                Metadata=sendable(metadata),
                **attributes,
                **condition,
            )
            etag = response.get("CopyObjectResult", {}).get("ETag", "")
            return etag or _copy_condition(client, ref, metadata)

        return await self._write("copy", ref, work, conditional=True)

    async def create_multipart(
        self, ref: Ref, *, metadata: Mapping[str, str] = NO_METADATA, attributes: Mapping[str, Any] = NO_ATTRIBUTES
    ) -> str:
        def work(client: S3Client) -> str:
            response = client.create_multipart_upload(
                Bucket=ref.bucket, Key=ref.key, Metadata=sendable(metadata), **attributes
            )
            if not response.get("UploadId"):
                raise OriginFailure(Fault.UNEXPECTED, "multipart", ref, "no upload id", "200")
            return response["UploadId"]

        return await self._write("multipart", ref, work)

    async def upload_part(self, ref: Ref, upload: str, number: int, value: bytes | bytearray) -> str:
        body: Any = value  # a bytearray too, of which the stubs do not know

        def work(client: S3Client) -> str:
            response = client.upload_part(
                Bucket=ref.bucket, Key=ref.key, UploadId=upload, PartNumber=number, Body=body
            )
            if not response.get("ETag"):
                raise OriginFailure(Fault.UNEXPECTED, "part", ref, "no ETag", "200")
            return response["ETag"]

        return await self._write("part", ref, work)

    async def stream_part(self, ref: Ref, upload: str, number: int, body: PartStream) -> str:
        def work(client: S3Client) -> str:
            return stream_part(client, ref, upload, number, body, _has_opaque_etag)

        return await self._write("part", ref, work, streaming=True)

    async def copy_part(
        self, ref: Ref, upload: str, number: int, source: Ref, byte_range: ByteRange, *, if_match: str = ""
    ) -> UploadedPart:
        def work(client: S3Client) -> UploadedPart:
            return copy_part(client, ref, upload, number, source, byte_range, if_match)

        return await self._write("part", ref, work, conditional=bool(if_match))

    async def list_parts(self, ref: Ref, upload: str, after: int, limit: int) -> PartsPage:
        return await self._write("list", ref, lambda client: list_parts(client, ref, upload, after, limit))

    async def list_uploads(
        self, bucket: str, prefix: str, delimiter: str, after: tuple[str, str], limit: int
    ) -> UploadsPage:
        def work(client: S3Client) -> UploadsPage:
            return list_uploads(client, bucket, prefix, delimiter, after, limit)

        return await self._write("list", Ref(bucket, prefix), work)

    async def complete_multipart(
        self,
        ref: Ref,
        upload: str,
        etags: Sequence[str],
        *,
        numbers: Sequence[int] = (),
        if_match: str = "",
        if_absent: bool = False,
    ) -> str:
        def work(client: S3Client) -> str:
            condition: Any = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match else {}
            numbered = zip(numbers or range(1, len(etags) + 1), etags, strict=True)
            parts: Any = [{"ETag": etag, "PartNumber": number} for number, etag in numbered]
            response = client.complete_multipart_upload(
                Bucket=ref.bucket, Key=ref.key, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
            )
            if not response.get("ETag"):
                raise OriginFailure(Fault.UNEXPECTED, "multipart", ref, "no ETag", "200")
            return response["ETag"]

        return await self._write("multipart", ref, work, conditional=if_absent or bool(if_match))

    async def abort_multipart(self, ref: Ref, upload: str) -> None:
        def work(client: S3Client) -> None:
            _check_done(
                "multipart", ref, client.abort_multipart_upload(Bucket=ref.bucket, Key=ref.key, UploadId=upload)
            )

        try:
            await self._write("multipart", ref, work)
        except OriginFailure as failure:
            if failure.code != "NoSuchUpload":
                raise

    async def delete(self, ref: Ref, *, if_match: str = "") -> None:
        def work(client: S3Client) -> None:
            condition: Any = {"IfMatch": if_match} if if_match else {}
            _check_done("delete", ref, client.delete_object(Bucket=ref.bucket, Key=ref.key, **condition))

        await self._call("delete", ref, work, conditional=bool(if_match))

    async def list(
        self, bucket: str, prefix: str, cursor: str, limit: int, delimiter: str = "", after: str = ""
    ) -> Page:
        def work(client: S3Client) -> Page:
            options: Any = {"ContinuationToken": cursor} if cursor else {"StartAfter": after} if after else {}
            if delimiter:
                options["Delimiter"] = delimiter
            response = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=limit, **options)
            # A listing that does not even name the bucket is not S3's XML.
            if "Name" not in response and "KeyCount" not in response and "IsTruncated" not in response:
                raise OriginFailure(Fault.UNEXPECTED, "list", Ref(bucket, prefix), "no listing", "200")
            objects = [
                Info(item["Key"], item["Size"], item.get("ETag", ""), seconds_of(item.get("LastModified")))
                for item in response.get("Contents", [])
            ]
            prefixes = [item["Prefix"] for item in response.get("CommonPrefixes", [])]
            return Page(objects, response.get("NextContinuationToken", ""), prefixes)

        return await self._write("list", Ref(bucket, prefix), work)

    async def check_bucket(self, bucket: str) -> None:
        def work(client: S3Client) -> None:
            client.head_bucket(Bucket=bucket)

        try:
            await self._call("bucket", Ref(bucket, ""), work)
        except OriginFailure as failure:
            if not failure.says_nothing:
                raise
            await self.list(bucket, "", "", 1)  # unlike a HEAD's, its response has S3's error code

    async def find_region(self, bucket: str) -> str:
        """Return the region of `bucket` according to S3; "" if S3 does not name it."""

        def work(client: S3Client) -> str:
            try:
                response: Any = client.head_bucket(Bucket=bucket)
            except botocore_errors.ClientError as error:
                return region_of(error)
            return str(response["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", ""))

        return await self._write("bucket", Ref(bucket, ""), work)

    def reconnect(self) -> None:
        """Discard the idle connections; requests in flight keep theirs."""
        for client in tuple(self._clients.values()):
            client.close()

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._streams.shutdown(wait=False, cancel_futures=True)


def _check_done(operation: str, ref: Ref, response: Any) -> None:
    """Raise OriginFailure if a 2xx response to a removal, which has no body, is not from S3."""
    made_by = response["ResponseMetadata"]
    status, length = made_by["HTTPStatusCode"], made_by["HTTPHeaders"].get("content-length", "0")
    if status != 204 and (status, length) != (200, "0"):
        raise OriginFailure(Fault.UNEXPECTED, operation, ref, f"HTTP {status}, not from S3", str(status))


def _copy_condition(client: S3Client, ref: Ref, metadata: Mapping[str, str]) -> str:
    """Return the ETag of a copy whose response has none, as in some stores. Raises OriginFailure if there is no
    copy.
    """
    found = client.head_object(Bucket=ref.bucket, Key=ref.key)
    if not sendable(metadata).items() <= _own(found["Metadata"]).items():
        raise OriginFailure(Fault.UNEXPECTED, "copy", ref, "no ETag", "200")
    return found.get("ETag", "")


def _status(response: Any) -> int:
    return int(response["ResponseMetadata"]["HTTPStatusCode"])


def _part(whole: Stored, byte_range: ByteRange) -> Stored | Absent:
    """Return the part of an object that a store has sent as a whole."""
    size = len(whole.value)
    if byte_range.offset >= size:
        return Absent.BEYOND_END
    return replace(whole, value=byte_range.of(whole.value), size=size)


def _own(metadata: Mapping[str, str]) -> Mapping[str, str]:
    return {name.lower(): text for name, text in metadata.items()}


def _has_opaque_etag(response: Any) -> bool:
    return response.get("ServerSideEncryption") in OPAQUE_ENCRYPTION or "SSECustomerAlgorithm" in response
