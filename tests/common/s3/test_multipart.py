"""What the endpoint replies to requests on uploads, over uploads in memory."""

from __future__ import annotations

import asyncio
import time

import pytest

from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import FailedPrecondition
from milena_common.api.etags import etag_of
from milena_common.api.properties import Properties
from milena_common.api.uploads import PartsPage, Upload, UploadedPart, UploadsPage
from milena_common.s3.body.checksums import digest_of
from milena_common.s3.multipart import SMALL_BYTES
from milena_common.s3.objects import PartBody, Written
from milena_common.s3.replies import Reply
from milena_common.s3.wire.request import S3Request
from tests.common.s3.requests_made import signed
from tests.common.s3.test_endpoint import URL, VALUE, EndpointUnderTest, MemoryObjects, code_of

LARGE = bytes(range(256)) * (SMALL_BYTES // 256 + 1)


class MemoryUploads(MemoryObjects):
    """Uploads of one bucket, by key and id."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: dict[tuple[bytes, str], dict[int, bytes]] = {}
        self.streamed = 0

    def _parts(self, key: bytes, upload: str) -> dict[int, bytes]:
        if (key, upload) not in self.uploads:
            raise FailedPrecondition(f"S3 part of s3://bucket/{key.decode()}: NoSuchUpload: There is none. (404)")
        return self.uploads[key, upload]

    async def create_upload(self, bucket: str, key: bytes, timeout: float, *, properties: Properties) -> str:
        upload = f"id-{len(self.uploads)}"
        self.uploads[key, upload] = {}
        return upload

    async def upload_part(
        self, bucket: str, key: bytes, upload: str, number: int, value: bytes | PartBody, timeout: float
    ) -> str:
        parts = self._parts(key, upload)
        if not isinstance(value, bytes):
            self.streamed += 1
            value = await asyncio.to_thread(lambda: b"".join(iter(lambda: value.read(2**16), b"")))
        parts[number] = value
        return etag_of(value)

    async def copy_part(
        self,
        bucket: str,
        key: bytes,
        upload: str,
        number: int,
        source: tuple[str, bytes],
        byte_range: ByteRange,
        timeout: float,
        *,
        if_match: str,
    ) -> UploadedPart:
        value = byte_range.of(self.values[source[1]][0])
        self._parts(key, upload)[number] = value
        return UploadedPart(number, etag_of(value), len(value), 0.0)

    async def complete_upload(
        self,
        bucket: str,
        key: bytes,
        upload: str,
        parts: list[UploadedPart],
        timeout: float,
        *,
        if_match: str,
        if_none_match: str,
    ) -> Written:
        stored = self._parts(key, upload)
        assert [part.etag for part in parts] == [etag_of(stored[part.number]) for part in parts]
        self.values[key] = b"".join(stored[part.number] for part in parts), Properties()
        return Written('"whole"', "through", "n:1")

    async def abort_upload(self, bucket: str, key: bytes, upload: str, timeout: float) -> None:
        self.uploads.pop((key, upload), None)

    async def list_parts(
        self, bucket: str, key: bytes, upload: str, after: int, limit: int, timeout: float
    ) -> PartsPage:
        stored = self._parts(key, upload)
        return PartsPage([UploadedPart(n, etag_of(stored[n]), len(stored[n])) for n in sorted(stored)], False)

    async def list_uploads(
        self, bucket: str, prefix: str, delimiter: str, after: tuple[str, str], limit: int, timeout: float
    ) -> UploadsPage:
        return UploadsPage([Upload(key.decode(), upload, 0.0) for key, upload in self.uploads], (), "", "")


class UploadsUnderTest(EndpointUnderTest):
    def __init__(self, users: str = "") -> None:
        super().__init__(users=users, max_value_bytes=2 * SMALL_BYTES, objects=MemoryUploads(), budget=10**8)
        self.objects: MemoryUploads

    async def create(self) -> str:
        reply = await self.send(sign("POST", "?uploads"))
        assert b"<Bucket>bucket</Bucket><Key>key</Key><UploadId>id-" in reply.body
        return "id-0"

    async def part(
        self, number: object, body: bytes, headers: dict[str, str] | None = None, upload: str = "id-0"
    ) -> Reply:
        request = sign("PUT", f"?partNumber={number}&uploadId={upload}", headers, body)
        return await self.send(request, body)

    async def complete(self, content: str) -> Reply:
        body = f"<CompleteMultipartUpload>{content}</CompleteMultipartUpload>".encode()
        return await self.send(sign("POST", "?uploadId=id-0", body=body), body)


def sign(method: str, query: str, headers: dict[str, str] | None = None, body: bytes = b"") -> S3Request:
    return signed("v4", method, URL + query, time.time(), headers, body)


@pytest.mark.parametrize("value", [VALUE, LARGE], ids=["small", "large"])
async def test_an_object_is_made_of_its_parts(value: bytes) -> None:
    t = UploadsUnderTest()
    await t.create()
    part = await t.part(3, value, {"x-amz-checksum-crc32": digest_of("crc32", value)})
    headers = dict(part.headers)
    assert (headers["ETag"], headers["x-amz-checksum-crc32"]) == (etag_of(value), digest_of("crc32", value))
    assert t.objects.streamed == (value is LARGE)
    listed = await t.send(sign("GET", "?uploadId=id-0"))
    assert b"<PartNumber>3</PartNumber>" in listed.body
    assert (
        b"<UploadId>id-0</UploadId>" in (await t.send(signed("v4", "GET", URL[:-4] + "?uploads", time.time()))).body
    )
    bare = etag_of(value).strip('"')
    done = await t.complete(f"<Part><ETag>{bare}</ETag><PartNumber>3</PartNumber></Part>")
    assert (done.status, b"<ETag>&quot;whole&quot;</ETag>" in done.body) == (200, True)
    assert t.objects.values[b"key"][0] == value


async def test_requests_are_counted_by_operation_and_parts_while_they_are_passed_on() -> None:
    t = UploadsUnderTest()
    await t.create()
    await t.part(1, VALUE)
    assert code_of(await t.part(2, LARGE, {"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="})) == "BadDigest"
    assert (await t.send(sign("PUT", "?tagging"))).status == 405
    counts = t.endpoint.counts
    assert {name: number for name, number in counts.requests.items() if number} == {
        "CreateMultipartUpload": 1,
        "UploadPart": 2,
        "other": 1,
    }
    assert counts.streamed == 0


@pytest.mark.parametrize("value", [VALUE, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-amz-checksum-crc32": digest_of("crc32", b"")}, "BadDigest"),
        ({"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, "BadDigest"),
        ({"content-md5": "short"}, "InvalidDigest"),
    ],
)
async def test_a_part_that_is_another_one_is_not_stored(value: bytes, headers: dict[str, str], code: str) -> None:
    t = UploadsUnderTest()
    await t.create()
    assert code_of(await t.part(1, value, headers)) == code
    assert t.objects.uploads == {(b"key", "id-0"): {}}


@pytest.mark.parametrize("value", [VALUE, LARGE], ids=["small", "large"])
async def test_errors_on_parts(value: bytes) -> None:
    t = UploadsUnderTest()
    await t.create()
    for number in (0, 10_001, "x", -1):
        assert code_of(await t.part(number, value)) == "InvalidArgument"
    assert code_of(await t.part(1, value, upload="id-9")) == "NoSuchUpload"
    assert code_of(await t.part(1, value, upload="")) == "NoSuchUpload"
    short = sign("PUT", "?partNumber=1&uploadId=id-0", body=value)
    assert code_of(await t.send(short, value[:-1], len(value))) == "IncompleteBody"
    assert t.objects.uploads == {(b"key", "id-0"): {}}


PART = "<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "MalformedXML"),
        (PART.format("x", "a"), "MalformedXML"),
        (PART.format(1, ""), "MalformedXML"),
        (PART.format(2, "a") + PART.format(1, "b"), "InvalidPartOrder"),
        (PART.format(1, "a") + PART.format(1, "b"), "InvalidPartOrder"),
        (PART.format(0, "a"), "InvalidArgument"),
        (PART.format(10_001, "a"), "InvalidArgument"),
    ],
)
async def test_what_is_not_a_list_of_parts_is_not_completed(content: str, code: str) -> None:
    t = UploadsUnderTest()
    await t.create()
    assert code_of(await t.complete(content)) == code
    assert t.objects.values == {}


@pytest.mark.parametrize(
    ("source", "headers", "expected"),
    [
        ("bucket/a%20b", {}, VALUE),
        ("/bucket/a+b", {"range": "bytes=2-4"}, b"234"),
        ("bucket/a%20b?versionId=null", {"if-match": etag_of(VALUE)}, VALUE),
        ("bucket/a%20b", {"range": "bytes=2-10"}, "InvalidArgument"),
        ("bucket/a%20b", {"range": "bytes=-2"}, "InvalidArgument"),
        ("bucket/a%20b", {"if-match": '"0"'}, "PreconditionFailed"),
        ("bucket/a%20b", {"if-none-match": etag_of(VALUE)}, "PreconditionFailed"),
        ("bucket/a%20b?versionId=1", {}, "InvalidArgument"),
        ("bucket/missing", {}, "NoSuchKey"),
        ("other/a", {}, "NoSuchBucket"),
        ("bucket", {}, "InvalidArgument"),
    ],
)
async def test_a_part_of_another_object(source: str, headers: dict[str, str], expected: bytes | str) -> None:
    t = UploadsUnderTest()
    await t.create()
    t.objects.values[b"a b"] = VALUE, Properties(1.0)
    sent = {"x-amz-copy-source": source} | {f"x-amz-copy-source-{name}": text for name, text in headers.items()}
    reply = await t.part(1, b"", sent)
    if isinstance(expected, str):
        assert code_of(reply) == expected
        assert t.objects.uploads[b"key", "id-0"] == {}
    else:
        assert b"<CopyPartResult" in reply.body
        assert t.objects.uploads[b"key", "id-0"] == {1: expected}
        assert t.objects.confirmed == [b"a b"]


async def test_a_user_needs_permission_for_the_key_and_for_the_source() -> None:
    t = UploadsUnderTest("user reader on nopass ~key %R~source +set +get +scan\n")
    await t.create()
    t.objects.values[b"secret"] = t.objects.values[b"source"] = VALUE, Properties(1.0)
    assert code_of(await t.part(1, b"", {"x-amz-copy-source": "bucket/secret"})) == "AccessDenied"
    assert (await t.part(1, b"", {"x-amz-copy-source": "bucket/source"})).status == 200
    other = signed("v4", "POST", URL[:-3] + "other?uploads", time.time())
    assert code_of(await t.send(other)) == "AccessDenied"
