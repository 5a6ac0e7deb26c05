"""What the endpoint replies to requests, good and bad, over objects in memory."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from milena_common.access.access import Access
from milena_common.access.acl_file import parse_users
from milena_common.access.api_guard import ApiGuard
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import ConditionFailed, FailedPrecondition, OriginUnavailable
from milena_common.api.etags import etag_of
from milena_common.api.properties import Properties
from milena_common.limits.byte_budget import ByteBudget
from milena_common.runtime.clock import SystemClock
from milena_common.s3.body.checksums import digest_of
from milena_common.s3.endpoint import Endpoint
from milena_common.s3.objects import Found, Item, Listed, Written
from milena_common.s3.replies import Reply
from milena_common.s3.signing.signatures import Verifier
from milena_common.s3.wire.kept_properties import properties_of
from milena_common.s3.wire.request import S3Request
from tests.common.s3.requests_made import KEYS, request_of, signed

URL = "http://127.0.0.1:9000/bucket/key"
AT = 1_800_000_000.0
VALUE = b"0123456789"
# As `OriginFailure` has it.
NO_BUCKET = "S3 bucket of s3://gone/: NoSuchBucket: The specified bucket does not exist (404)"


class MemoryObjects:
    """Objects of one bucket, by key. `down`: S3 does not reply. `confirmed`: keys of which S3 was asked."""

    def __init__(self) -> None:
        self.values: dict[bytes, tuple[bytes, Properties]] = {}
        self.down = False
        self.confirmed: list[bytes] = []
        self.durability: list[str] = []

    def buckets(self) -> Sequence[str]:
        return ("bucket",)

    def serves(self, bucket: str) -> bool:
        return bucket in ("bucket", "gone")

    async def check_bucket(self, bucket: str, timeout: float) -> None:
        if bucket == "gone":
            raise FailedPrecondition(NO_BUCKET)

    def read(
        self, bucket: str, key: bytes, byte_range: ByteRange, max_bytes: int, timeout: float, if_match: str = ""
    ) -> Found | Awaitable[Found]:
        if self.down:
            raise OriginUnavailable("S3 does not reply")
        found = self._found(key)
        if not found.exists:
            return found
        start, length = byte_range.within(found.size)
        return found._replace(value=found.value[start : start + min(length, max_bytes)])

    def _found(self, key: bytes) -> Found:
        if key not in self.values:
            return Found("miss", False, b"", 0, "", 0.0, "n:1", Properties())
        value, properties = self.values[key]
        return Found("hit", True, value, len(value), etag_of(value), 5.0, "n:1", properties)

    async def describe(self, bucket: str, key: bytes, timeout: float) -> Found:
        return self._found(key)._replace(value=b"")

    async def confirm(self, bucket: str, key: bytes, timeout: float) -> None:
        self.confirmed.append(key)

    async def put(
        self,
        bucket: str,
        key: bytes,
        value: bytes,
        timeout: float,
        *,
        durability: str,
        if_match: str,
        if_none_match: str,
        properties: Properties,
    ) -> Written:
        found = self._found(key)
        if (if_none_match and found.exists) or (if_match and if_match != found.etag):
            raise ConditionFailed("the condition does not hold")
        self.values[key] = value, properties._replace(last_modified=AT)
        self.durability.append(durability)
        return Written(etag_of(value), durability or "back", "n:1")

    async def delete(self, bucket: str, key: bytes, timeout: float, *, durability: str, if_match: str) -> Written:
        self.values.pop(key, None)
        return Written("", durability or "back", "n:1")

    async def list_page(
        self, bucket: str, prefix: bytes, delimiter: bytes, cursor: str, after: str, limit: int, timeout: float
    ) -> Listed:
        """Each second page is empty, as pages of a cluster may be."""
        if not cursor:
            return Listed((), (), "0")
        keys = sorted(key for key in self.values if key.startswith(prefix) and key.decode() > after)
        at = int(cursor)
        items = [Item(key.decode(), len(self.values[key][0]), etag_of(b""), AT) for key in keys[at : at + limit]]
        return Listed(items, (), str(at + limit) if at + limit < len(keys) else "")


class Sent:
    """A body that comes in parts of four bytes, or in a few more that are larger."""

    def __init__(self, body: bytes, length: int | None) -> None:
        self.length = length
        size = max(4, len(body) // 64)
        self._parts = [body[at : at + size] for at in range(0, len(body), size)]

    async def read(self) -> bytes:
        return self._parts.pop(0) if self._parts else b""


class EndpointUnderTest:
    def __init__(
        self,
        *,
        anonymous: bool = False,
        users: str = "",
        max_value_bytes: int = 1000,
        objects: MemoryObjects | None = None,
        budget: int = 10_000,
    ) -> None:
        self.objects = objects or MemoryObjects()
        self.budget = ByteBudget(budget)
        clock = SystemClock()
        access = Access(clock, parse_users(users.encode(), "bucket")) if users else Access(clock)
        self.endpoint = Endpoint(
            self.objects,
            access,
            ApiGuard(access, lambda: "bucket", clock.now),
            Verifier(lambda: KEYS),
            self.budget,
            anonymous=anonymous,
            domain="",
            region="eu-central-1",
            timeout=1.0,
            max_value_bytes=max_value_bytes,
        )

    async def send(self, request: S3Request, body: bytes = b"", length: int | None = -1) -> Reply:
        found: Any = self.endpoint.handle(request, Sent(body, len(body) if length == -1 else length))
        reply: Reply = found if isinstance(found, Reply) else await found
        assert self.budget.used == 0 or reply.more is not None
        return reply


def code_of(reply: Reply) -> str:
    found = re.search(rb"<Code>(\w+)</Code>", reply.body)
    return found[1].decode() if found else ""


def sign(method: str, url: str = URL, headers: dict[str, str] | None = None, body: bytes = b"") -> S3Request:
    return signed("v4", method, url, time.time(), headers, body)


async def test_a_put_and_a_get_with_what_is_kept() -> None:
    t = EndpointUnderTest()
    headers = {"content-type": "text/plain", "content-encoding": "aws-chunked,gzip", "x-amz-meta-a": "1"}
    headers["x-amz-checksum-crc32"] = digest_of("crc32", VALUE)
    put = await t.send(sign("PUT", headers=headers, body=VALUE), VALUE)
    assert (put.status, code_of(put)) == (400, "IncompleteBody"), "it is not in the format that the header names"
    headers["content-encoding"] = "gzip"
    put = await t.send(sign("PUT", headers=headers, body=VALUE), VALUE)
    assert put.status == 200
    assert dict(put.headers)["x-amz-checksum-crc32"] == digest_of("crc32", VALUE)
    got = await t.send(sign("GET"))
    found = dict(got.headers)
    assert (got.status, got.body, got.length) == (200, VALUE, 10)
    assert (found["content-type"], found["content-encoding"], found["x-amz-meta-a"]) == ("text/plain", "gzip", "1")
    assert (found["ETag"], found["x-milena-outcome"], found["Age"]) == (etag_of(VALUE), "hit", "5")


@pytest.mark.parametrize(
    ("header", "status", "body", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-500", 206, VALUE, "bytes 0-9/10"),
        ("bytes=0-8388607", 206, VALUE, "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=9999999999999999999-", 416, None, "bytes */10"),
        ("bytes=5-2", 200, VALUE, None),
        ("junk", 200, VALUE, None),
    ],
)
async def test_ranges(header: str, status: int, body: bytes | None, content_range: str | None) -> None:
    t = EndpointUnderTest()
    t.objects.values[b"key"] = VALUE, Properties(AT)
    got = await t.send(sign("GET", headers={"range": header}))
    assert (got.status, dict(got.headers).get("Content-Range")) == (status, content_range)
    assert code_of(got) == "InvalidRange" if body is None else got.body == body


async def test_an_empty_object_has_no_range() -> None:
    t = EndpointUnderTest()
    t.objects.values[b"key"] = b"", Properties(AT)
    assert (await t.send(sign("GET"))).status == 200
    assert code_of(await t.send(sign("GET", headers={"range": "bytes=0-"}))) == "InvalidRange"


async def test_a_missing_key() -> None:
    t = EndpointUnderTest()
    assert code_of(await t.send(sign("GET"))) == "NoSuchKey"
    head = await t.send(sign("HEAD"))
    assert (head.status, head.body) == (404, b"")
    assert (await t.send(sign("DELETE"))).status == 204
    assert code_of(await t.send(sign("GET", URL.replace("bucket", "other")))) == "NoSuchBucket"


async def test_errors_of_the_cluster() -> None:
    t = EndpointUnderTest()
    t.objects.down = True
    reply = await t.send(sign("GET"))
    assert (reply.status, code_of(reply)) == (503, "ServiceUnavailable")


async def test_conditions() -> None:
    t = EndpointUnderTest()
    absent = {"if-none-match": "*"}
    assert (await t.send(sign("PUT", headers=absent, body=VALUE), VALUE)).status == 200
    assert code_of(await t.send(sign("PUT", headers=absent, body=b"2"), b"2")) == "PreconditionFailed"
    bare = etag_of(VALUE).strip('"')
    assert (await t.send(sign("GET", headers={"if-none-match": bare}))).status == 304
    assert code_of(await t.send(sign("GET", headers={"if-match": '"x"'}))) == "PreconditionFailed"
    assert (await t.send(sign("PUT", headers={"if-match": bare}, body=b"2"), b"2")).status == 200


async def test_a_reader_requires_confirmation() -> None:
    t = EndpointUnderTest()
    t.objects.values[b"key"] = VALUE, Properties(AT)
    for headers, confirmed in (
        ({"cache-control": "no-cache"}, 1),
        ({"x-milena-max-age": "4"}, 2),
        ({"x-milena-max-age": "5"}, 2),
    ):
        assert (await t.send(sign("GET", headers=headers))).body == VALUE
        assert len(t.objects.confirmed) == confirmed


def wrong_secret() -> S3Request:
    request = sign("PUT", body=VALUE)
    text = request.header("authorization")
    return request_of("PUT", URL, {**request.headers, "authorization": text[:-4] + "0000"}, request.arrived_at)


def at_another_time(form: str, seconds: float) -> S3Request:
    return signed(form, "PUT", URL, time.time() + seconds, body=VALUE if form == "v4" else b"")


BAD = {
    "wrong signature": (wrong_secret, VALUE, 403, "SignatureDoesNotMatch"),
    "skewed clock": (lambda: at_another_time("v4", 1000), VALUE, 403, "RequestTimeTooSkewed"),
    "expired": (lambda: at_another_time("v4-query", 100), VALUE, 403, "AccessDenied"),
    "no signature": (lambda: request_of("PUT", URL), VALUE, 403, "AccessDenied"),
    "another body": (lambda: sign("PUT", body=VALUE), b"x" * 10, 400, "XAmzContentSHA256Mismatch"),
    "truncated body": (lambda: sign("PUT", body=VALUE), VALUE[:5], 400, "IncompleteBody"),
    "bad checksum": (
        lambda: sign("PUT", headers={"x-amz-checksum-crc64nvme": digest_of("crc64nvme", b"")}, body=VALUE),
        VALUE,
        400,
        "BadDigest",
    ),
    "bad MD5": (lambda: sign("PUT", headers={"content-md5": "A" * 22 + "=="}, body=VALUE), VALUE, 400, "BadDigest"),
    "long key": (lambda: sign("PUT", URL + "k" * 1024, body=VALUE), VALUE, 400, "KeyTooLongError"),
    "large value": (lambda: sign("PUT", body=b"x" * 1001), b"x" * 1001, 400, "EntityTooLarge"),
    "encryption": (
        lambda: sign("PUT", headers={"x-amz-server-side-encryption": "AES256"}, body=VALUE),
        VALUE,
        400,
        "InvalidRequest",
    ),
    "tags": (lambda: sign("PUT", f"{URL}?tagging"), b"", 405, "MethodNotAllowed"),
    "copy": (lambda: sign("PUT", headers={"x-amz-copy-source": "bucket/a"}), b"", 404, "NoSuchKey"),
    "copy onto itself": (
        lambda: sign("PUT", headers={"x-amz-copy-source": "bucket/key"}),
        b"",
        400,
        "InvalidRequest",
    ),
    "durability": (
        lambda: sign("PUT", headers={"x-milena-durability": "no"}, body=VALUE),
        VALUE,
        400,
        "InvalidArgument",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_stores_nothing(name: str) -> None:
    make, body, status, code = BAD[name]
    t = EndpointUnderTest()
    reply = await t.send(make(), body, 10 if name == "truncated body" else -1)
    assert (reply.status, code_of(reply)) == (status, code)
    assert t.objects.values == {}


async def test_a_body_in_unsigned_chunks_with_its_checksum_behind() -> None:
    t = EndpointUnderTest()
    headers = {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "content-encoding": "aws-chunked",
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    for checksum, status in ((digest_of("crc32", VALUE), 200), (digest_of("crc32", b"x"), 400)):
        body = b"4\r\n0123\r\n6\r\n456789\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % checksum.encode()
        t.objects.values.clear()
        reply = await EndpointUnderTest.send(t, request_of("PUT", URL, headers), body, None)
        assert code_of(reply) == "AccessDenied"
        t.endpoint._callers._anonymous = True
        reply = await t.send(request_of("PUT", URL, headers), body, None)
        assert reply.status == status
        assert [value for value, _ in t.objects.values.values()] == ([VALUE] if status == 200 else [])
        t.endpoint._callers._anonymous = False


async def test_deletes_of_one_request() -> None:
    t = EndpointUnderTest()
    for key in (b"a", b"b", b"c"):
        t.objects.values[key] = VALUE, Properties(AT)
    body = b"<Delete><Object><Key>a</Key></Object><Object><Key>b</Key></Object></Delete>"
    digest = {"x-amz-checksum-sha256": digest_of("sha256", body)}
    reply = await t.send(sign("POST", URL.replace("/key", "?delete"), digest, body), body)
    assert reply.body.count(b"<Deleted>") == 2
    assert list(t.objects.values) == [b"c"]


async def test_a_listing_is_never_an_empty_page_while_more_follows() -> None:
    t = EndpointUnderTest()
    for key in (b"a b+c", b"a&b", "ä".encode()):
        t.objects.values[key] = VALUE, Properties(AT)
    reply = await t.send(sign("GET", URL.replace("/key", "?list-type=2&max-keys=1&encoding-type=url")))
    assert b"<Key>a%20b%2Bc</Key>" in reply.body or b"<Key>a%26b</Key>" in reply.body
    assert b"<KeyCount>1</KeyCount>" in reply.body
    assert b"<IsTruncated>true</IsTruncated>" in reply.body
    reply = await t.send(sign("GET", URL.replace("/key", "")))
    assert b"<Key>a&amp;b</Key>" in reply.body
    assert reply.body.count(b"<Contents>") == 3


async def test_users_may_do_what_their_rules_say() -> None:
    t = EndpointUnderTest(users="user default off\nuser reader on nopass ~public/* +get +scan\n")
    for key in (b"public/a", b"private/a"):
        t.objects.values[key] = VALUE, Properties(AT)
    public, private = URL.replace("key", "public/a"), URL.replace("key", "private/a")
    assert (await t.send(sign("GET", public))).status == 200
    for request in (sign("GET", private), sign("PUT", public, body=b"x"), sign("DELETE", public)):
        assert code_of(await t.send(request, b"x" if request.method == "PUT" else b"")) == "AccessDenied"
    listed = await t.send(sign("GET", URL.replace("/key", "")))
    assert b"public/a" in listed.body
    assert b"private/a" not in listed.body
    disabled = EndpointUnderTest(users="user default off\nuser reader off nopass ~* +@all\n")
    assert code_of(await disabled.send(sign("GET"))) == "InvalidAccessKeyId"


async def test_probes_that_clients_make() -> None:
    t = EndpointUnderTest()
    bucket = URL.replace("/key", "")
    assert b"eu-central-1" in (await t.send(sign("GET", f"{bucket}?location"))).body
    assert code_of(await t.send(sign("PUT", bucket))) == "BucketAlreadyOwnedByYou"
    assert (await t.send(sign("HEAD", bucket))).status == 200
    assert b"<Name>bucket</Name>" in (await t.send(sign("GET", "http://127.0.0.1:9000/"))).body
    assert code_of(await t.send(sign("GET", f"{bucket}?policy"))) == "NoSuchBucketPolicy"


async def test_a_bucket_that_s3_does_not_have_is_named_as_s3_does() -> None:
    t = EndpointUnderTest()
    assert (await t.send(sign("HEAD", "http://127.0.0.1:9000/bucket"))).status == 200
    assert (await t.send(sign("HEAD", "http://127.0.0.1:9000/gone"))).status == 404
    location = await t.send(sign("GET", "http://127.0.0.1:9000/gone?location"))
    assert (location.status, code_of(location)) == (404, "NoSuchBucket")


@pytest.mark.parametrize("name", ["x-amz-if-match-size", "x-amz-if-match-last-modified-time"])
async def test_a_delete_with_a_condition_that_is_not_known_deletes_nothing(name: str) -> None:
    t = EndpointUnderTest()
    t.objects.values[b"key"] = VALUE, Properties()
    reply = await t.send(sign("DELETE", headers={name: "9999"}))
    assert (reply.status, code_of(reply)) == (400, "InvalidRequest")
    element = {"x-amz-if-match-size": "Size", "x-amz-if-match-last-modified-time": "LastModifiedTime"}[name]
    body = f"<Delete><Object><Key>key</Key><{element}>9999</{element}></Object></Delete>".encode()
    reply = await t.send(sign("POST", "http://127.0.0.1:9000/bucket?delete", body=body), body)
    assert (reply.status, code_of(reply)) == (400, "InvalidRequest")
    assert b"key" in t.objects.values


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("deflate, gzip", "deflate, gzip"),
        ("deflate,gzip", "deflate,gzip"),
        ("gzip, aws-chunked", "gzip"),
        ("aws-chunked,deflate,gzip", "deflate, gzip"),
        ("aws-chunked", None),
    ],
)
def test_a_content_encoding_is_kept_as_it_was_sent(sent: str, kept: str | None) -> None:
    assert properties_of({"content-encoding": sent}).headers.get("content-encoding") == kept
