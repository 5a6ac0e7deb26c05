"""What both clients of S3 make of each reply, against a server that says exactly what a test wants."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from hashlib import md5

import pytest

from milena_cache.objects.object_store import Absent, Fault, Info, OriginFailure, Ref, Stored
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3.digest import ENOUGH
from milena_cache.origin.s3.settings import S3Settings
from milena_cache.origin.s3_store import LARGE_BYTES, S3, UNREADABLE_IN_A_ROW
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import FailedPrecondition
from tests.support.fake_clock import FakeClock
from tests.support.s3.faults import Request
from tests.support.s3.moto_server import REGION
from tests.support.s3.scripted_s3 import HTML, XML, Scripted, ScriptedS3, error, reply

MIB = 2**20
ETAG = '"0123456789abcdef0123456789abcdef"'
NEGATIVE_TTL = 5.0
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
# obstore reads and writes the first, boto3 the second, which obstore would alter.
KEYS = ["k", "odd//k"]
KNOWN = {"ETag": '"x"', "Last-Modified": DATE, "x-amz-request-id": "scripted"}


def etag_of(value: bytes) -> str:
    return f'"{md5(value).hexdigest()}"'


def held(value: bytes, **headers: str) -> Scripted:
    """S3's reply to a GET of an object that was put in one piece."""
    return reply(200, value, {**KNOWN, "ETag": etag_of(value), **headers})


def html(status: int) -> Scripted:
    """What a load balancer says when it has no server behind it."""
    return reply(status, "<html><body>default backend</body></html>", HTML)


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with ScriptedS3() as made:
        yield made


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(server: ScriptedS3, credentials: Credentials, clock: FakeClock) -> AsyncIterator[S3]:
    settings = S3Settings(REGION, server.endpoint_url, timeout=20, connect_timeout=20)
    made = S3(credentials, settings, clock, NEGATIVE_TTL)
    yield made
    await made.close()


async def failure_of(call: Awaitable[object]) -> OriginFailure:
    with pytest.raises(OriginFailure) as caught:
        await call
    return caught.value


def calls_of(store: S3, ref: Ref) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "get": lambda: store.get(ref, max_bytes=MIB),
        "get if changed": lambda: store.get(ref, if_none_match=ETAG, max_bytes=MIB),
        "head": lambda: store.head(ref),
        "put": lambda: store.put(ref, b"v"),
        "create": lambda: store.put(ref, b"v", if_absent=True),
        "replace": lambda: store.put(ref, b"v", if_match=ETAG),
        "multipart": lambda: store.create_multipart(ref),
        "part": lambda: store.upload_part(ref, "u", 1, b"v"),
        "complete": lambda: store.complete_multipart(ref, "u", [ETAG]),
        "complete if": lambda: store.complete_multipart(ref, "u", [ETAG], if_absent=True),
        "abort": lambda: store.abort_multipart(ref, "u"),
        "delete": lambda: store.delete(ref),
        "delete if": lambda: store.delete(ref, if_match=ETAG),
        "list": lambda: store.list(ref.bucket, "", "", 10),
        "check": lambda: store.check_bucket(ref.bucket),
    }


OPERATIONS = list(calls_of(None, Ref("", "")))  # type: ignore[arg-type]


# These replies are S3's own: a deletion, an unchanged object, a bucket that is there.
OWN = [(204, "delete"), (204, "delete if"), (204, "abort"), (304, "get if changed")]


@pytest.mark.parametrize(
    "status", [204, 206, 302, 304, 307, 308, 400, 401, 403, 404, 405, 409, 410, 412, 413, 416, 451, 500, 501, 503]
)
async def test_a_status_without_s3s_code_passes(status: int, store: S3, server: ScriptedS3) -> None:
    server.reply = lambda request: html(status)
    for key in KEYS:
        for operation, call in calls_of(store, Ref("bucket", key)).items():
            if (status, operation) in OWN:
                continue
            failure = await failure_of(call())
            assert failure.fault.retryable, (operation, failure)
            assert not failure.fault.of_object


@pytest.mark.parametrize("said", [error(500, "InternalError"), error(404, "NoSuchKey"), error(403, "AccessDenied")])
@pytest.mark.parametrize("key", KEYS)
async def test_a_request_that_fails_leaves_no_reference_cycles(
    key: str, said: Scripted, store: S3, server: ScriptedS3
) -> None:
    """Thousands of them, as a DEL of absent keys makes, had the garbage collector block the loop for 100 ms."""
    server.reply = lambda request: said
    calls = [call for name, call in calls_of(store, Ref("bucket", key)).items() if name not in ("list", "check")]
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for call in calls:
            await _finish(call)
        gc.collect()
        failures = [failure.operation for failure in gc.garbage if isinstance(failure, OriginFailure)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not failures


async def _finish(call: Callable[[], Awaitable[object]]) -> None:
    with suppress(OriginFailure):
        await call()


ABSENT = error(404, "NoSuchKey")


@pytest.mark.parametrize("key", KEYS)
async def test_what_s3_says_with_its_code_is_believed(key: str, store: S3, server: ScriptedS3) -> None:
    ref = Ref("bucket", key)
    calls = calls_of(store, ref)
    server.reply = lambda request: ABSENT
    assert await calls["get"]() is Absent.MISSING
    assert await calls["head"]() is None
    await calls["delete"]()
    await calls["delete if"]()
    assert (await failure_of(calls["replace"]())).fault is Fault.CHANGED
    assert (await failure_of(calls["put"]())).fault is Fault.UNEXPECTED, "nothing was asked about the object"
    server.reply = lambda request: error(412, "PreconditionFailed")
    for operation in ("create", "replace", "delete if"):
        assert (await failure_of(calls[operation]())).fault is Fault.CHANGED
    for operation in ("get", "put"):
        assert (await failure_of(calls[operation]())).fault is Fault.UNEXPECTED, "no condition was sent"
    server.reply = lambda request: error(409, "ConditionalRequestConflict")
    for operation in ("create", "replace", "delete if"):
        assert (await failure_of(calls[operation]())).fault is Fault.BUSY
    server.reply = lambda request: error(416, "InvalidRange")
    assert (await failure_of(calls["get"]())).fault is Fault.UNEXPECTED, "no range was asked for"
    server.reply = lambda request: error(404, "NoSuchBucket")
    for operation in OPERATIONS:
        assert (await failure_of(calls[operation]())).fault is Fault.NO_BUCKET, operation


ACCOUNT = [
    (403, "AccountProblem"),
    (403, "AllAccessDisabled"),
    (403, "NotSignedUp"),
    (403, "InvalidSecurity"),
    (403, "InvalidAccessKeyId"),
    (403, "SignatureDoesNotMatch"),
    (403, "RequestTimeTooSkewed"),
    (403, "QuotaExceeded"),
    (400, "ExpiredToken"),
    (400, "AuthorizationHeaderMalformed"),
]


async def test_what_concerns_every_request_is_no_matter_of_one_object(store: S3, server: ScriptedS3) -> None:
    for status, code in ACCOUNT:
        server.reply = lambda request, status=status, code=code: error(status, code)  # type: ignore[misc]
        for key in KEYS:
            for operation, call in calls_of(store, Ref("bucket", key)).items():
                failure = await failure_of(call())
                assert (failure.fault, failure.code) == (Fault.ACCOUNT, code), operation


# ---- HEAD


@pytest.mark.parametrize("key", KEYS)
async def test_an_absence_seen_by_head_is_confirmed_once_and_for_a_while(
    key: str, store: S3, server: ScriptedS3, clock: FakeClock
) -> None:
    ref = Ref("bucket", key)
    server.reply = lambda request: ABSENT
    for _ in range(3):
        assert await store.head(ref) is None
    assert server.requested == ["HEAD", "GET", "HEAD", "HEAD"]
    clock.tick(NEGATIVE_TTL)
    assert await store.head(ref) is None
    assert server.requested == ["HEAD", "GET"]


@pytest.mark.parametrize("key", KEYS)
async def test_a_head_that_meets_a_load_balancer_finds_what_s3_has(key: str, store: S3, server: ScriptedS3) -> None:
    ref = Ref("bucket", key)
    server.reply = lambda request: html(404) if request.method == "HEAD" else held(b"there")
    found = await store.head(ref)
    assert isinstance(found, Info)
    assert (found.size, found.etag) == (5, etag_of(b"there"))


@pytest.mark.parametrize("key", KEYS)
async def test_a_confirmed_absence_ends_with_a_write_of_ours(key: str, store: S3, server: ScriptedS3) -> None:
    ref = Ref("bucket", key)
    server.reply = lambda request: reply(200, b"", KNOWN) if request.method == "PUT" else ABSENT
    assert await store.head(ref) is None
    await store.put(ref, b"v")
    server.reply = lambda request: html(404)
    assert (await failure_of(store.head(ref))).fault is Fault.UNEXPECTED


async def test_a_head_that_is_denied_says_nothing_of_writes(store: S3, server: ScriptedS3) -> None:
    server.reply = lambda request: error(403, "AccessDenied")
    failure = await failure_of(store.head(Ref("bucket", "k")))
    assert (failure.fault, failure.code) == (Fault.DENIED, "HTTP 403")


async def test_requests_that_confirm_are_counted(store: S3, server: ScriptedS3) -> None:
    counted: list[tuple[str, str]] = []
    store.on_request = lambda operation, code, seconds: counted.append((operation, code))
    server.reply = lambda request: ABSENT
    await store.head(Ref("bucket", "k"))
    assert counted == [("get", "404")]


# ---- replies without some headers


def chunked(request: Request) -> Scripted:
    return reply(200, b"hello", {**KNOWN, "Transfer-Encoding": "chunked"})


def http_1_0(request: Request) -> Scripted:
    return reply(200, b"hello", KNOWN, length=False, version="1.0")


def bare(request: Request) -> Scripted:
    return reply(200, b"hello", {})


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("said", [chunked, http_1_0, bare])
async def test_headers_that_are_missing_keep_nothing_from_being_read(
    said: Callable[[Request], Scripted], key: str, store: S3, server: ScriptedS3
) -> None:
    ref = Ref("bucket", key)
    server.reply = said
    got = await store.get(ref, max_bytes=MIB)
    assert isinstance(got, Stored)
    assert (got.value, got.etag) == (b"hello", "" if said is bare else '"x"')
    found = await store.head(ref)
    assert found is not None
    assert found.size == 5
    assert (await store.get(ref, max_bytes=5)) == got
    with pytest.raises(FailedPrecondition):
        await store.get(ref, max_bytes=4)


async def test_an_s3_that_obstore_cannot_read_costs_one_request_a_read_before_long(
    store: S3, server: ScriptedS3
) -> None:
    server.reply = chunked
    for n in range(UNREADABLE_IN_A_ROW):
        await store.get(Ref("bucket", f"k{n}"), max_bytes=MIB)
    server.requests.clear()
    for n in range(20):
        await store.get(Ref("bucket", f"k{n}"), max_bytes=MIB)
    assert len(server.requested) == 20


@pytest.mark.parametrize("key", KEYS)
async def test_a_body_that_ends_with_the_connection_is_as_long_as_a_head_says(
    key: str, store: S3, server: ScriptedS3
) -> None:
    def said(request: Request) -> Scripted:
        if request.method == "HEAD":
            return reply(200, b"hello, world", KNOWN)
        return http_1_0(request)

    server.reply = said
    failure = await failure_of(store.get(Ref("bucket", key), max_bytes=MIB))
    assert (failure.fault, failure.code) == (Fault.INCOMPLETE, "5 of 12 bytes")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("operation", ["put", "create", "replace"])
async def test_a_put_whose_response_has_no_etag_may_have_happened(
    operation: str, key: str, store: S3, server: ScriptedS3
) -> None:
    server.reply = lambda request: html(200)
    failure = await failure_of(calls_of(store, Ref("bucket", key))[operation]())
    assert (failure.fault, failure.ambiguous) == (Fault.UNEXPECTED, True)


@pytest.mark.parametrize("key", KEYS)
async def test_a_success_with_an_error_document_is_a_failure(key: str, store: S3, server: ScriptedS3) -> None:
    server.reply = lambda request: error(200, "SlowDown")
    for operation, call in calls_of(store, Ref("bucket", key)).items():
        if operation not in ("head", "check", "delete if"):
            failure = await failure_of(call())
            assert failure.fault.retryable, operation


@pytest.mark.parametrize("key", KEYS)
async def test_a_page_in_an_objects_place_is_no_value(key: str, store: S3, server: ScriptedS3) -> None:
    server.reply = lambda request: held(b"an object", **XML)
    await store.check_bucket("bucket")
    server.reply = lambda request: html(200)
    assert (await failure_of(store.get(Ref("bucket", key), max_bytes=MIB))).fault is Fault.UNEXPECTED
    assert (await failure_of(store.head(Ref("bucket", key)))).fault is Fault.UNEXPECTED


# ---- values and their ETags


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("size", [64, MIB])
async def test_a_value_that_is_not_what_its_etag_names_is_rejected(
    size: int, key: str, store: S3, server: ScriptedS3, caplog: pytest.LogCaptureFixture
) -> None:
    ref, value = Ref("bucket", key), b"A" * size
    server.reply = lambda request: held(value)
    await store.get(ref, max_bytes=MIB)
    server.reply = lambda request: reply(200, b"B" + value[1:], {**KNOWN, "ETag": etag_of(value)})
    for _ in range(50):
        failure = await failure_of(store.get(ref, max_bytes=MIB))
        assert (failure.fault, failure.code) == (Fault.INCOMPLETE, "damaged value")
    assert len(caplog.records) == 1, "said once, not for each read"


async def test_a_value_that_was_damaged_once_on_the_way_is_read_again(store: S3, server: ScriptedS3) -> None:
    value = b"A" * 64
    await learn(store, server)
    said = [reply(200, b"B" + value[1:], {**KNOWN, "ETag": etag_of(value)}), held(value)]
    server.reply = lambda request: said.pop(0)
    assert await store.get(Ref("bucket", "k"), max_bytes=MIB) == Stored(value, etag_of(value))


async def learn(store: S3, server: ScriptedS3) -> None:
    """Have the bucket's ETags seen to be MD5s, by a write."""
    server.reply = lambda request: reply(200, b"", {**KNOWN, "ETag": etag_of(b"v")})
    await store.put(Ref("bucket", "learnt"), b"v")
    server.requests.clear()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": ETAG, "x-amz-server-side-encryption": "aws:kms"},
        {"ETag": ETAG, "x-amz-server-side-encryption-customer-algorithm": "AES256"},
        {"ETag": '"0123456789abcdef0123456789abcdef-2"'},
        {"ETag": 'W/"0123456789abcdef0123456789abcdef"'},
    ],
)
async def test_an_etag_that_is_no_md5_is_compared_with_nothing(
    headers: dict[str, str], key: str, store: S3, server: ScriptedS3
) -> None:
    await learn(store, server)
    server.reply = lambda request: reply(200, b"hello", {**KNOWN, **headers})
    for _ in range(3):
        got = await store.get(Ref("bucket", key), max_bytes=MIB)
        assert isinstance(got, Stored)
        assert got.value == b"hello"
    assert len(server.requested) <= 4, "an encrypted object is asked about twice once"


async def test_a_store_whose_etags_are_no_md5s_is_read(store: S3, server: ScriptedS3) -> None:
    server.reply = lambda request: reply(
        200, request.key.encode(), {**KNOWN, "ETag": etag_of(request.key.encode()[1:])}
    )
    for n in range(40):
        got = await store.get(Ref("bucket", f"k{n}"), max_bytes=MIB)
        assert isinstance(got, Stored)
        assert got.value == f"k{n}".encode()
    assert len(server.requested) == 40


# ---- regions


def in_ireland(request: Request, rejected: Scripted, held: Scripted) -> Scripted:
    """S3's reply to a request for a bucket in eu-west-1."""
    if "/eu-west-1/s3/" in request.fields.get("authorization", ""):
        return held
    return rejected


REJECTIONS = {
    "redirect": error(301, "PermanentRedirect", headers={**XML, "x-amz-bucket-region": "eu-west-1"}),
    "malformed": error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
    "temporary": error(
        307,
        "TemporaryRedirect",
        headers={**XML, "x-amz-bucket-region": "eu-west-1", "Location": "http://localhost:9/bucket/k"},
    ),
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("rejection", REJECTIONS)
async def test_the_region_of_a_bucket_is_learnt_once(
    rejection: str, key: str, store: S3, server: ScriptedS3, caplog: pytest.LogCaptureFixture
) -> None:
    ref = Ref("bucket", key)
    put = reply(200, b"", {**KNOWN, "ETag": etag_of(b"v")})
    server.reply = lambda request: in_ireland(
        request, REJECTIONS[rejection], put if request.method == "PUT" else held(b"hello")
    )
    await store.check_bucket("bucket")
    server.requests.clear()
    for _ in range(3):
        assert await store.get(ref, max_bytes=MIB) == Stored(b"hello", etag_of(b"hello"))
        assert await store.put(ref, b"v", if_absent=True) == etag_of(b"v")
    assert len(server.requested) == 6
    assert caplog.text.count("eu-west-1") == 1


@pytest.mark.parametrize("rejection", [error(301, "PermanentRedirect"), error(400, "AuthorizationHeaderMalformed")])
async def test_a_region_that_s3_does_not_name_is_rejected_clearly(
    rejection: Scripted, store: S3, server: ScriptedS3
) -> None:
    server.reply = lambda request: rejection
    for operation, call in calls_of(store, Ref("bucket", "k")).items():
        failure = await failure_of(call())
        assert failure.fault is Fault.ACCOUNT, operation


async def test_the_start_check_reads_by_both_clients(store: S3, server: ScriptedS3) -> None:
    server.reply = lambda request: reply(200, b"", KNOWN) if request.method == "HEAD" else ABSENT
    await store.check_bucket("bucket")
    agents = [request.fields["user-agent"].partition("/")[0] for request in server.requests]
    assert agents == ["Boto3", "object_store", "Boto3"]
    server.reply = lambda request: reply(200, b"", KNOWN) if request.method == "HEAD" else html(404)
    assert (await failure_of(store.check_bucket("bucket"))).fault is Fault.UNEXPECTED
    server.reply = lambda request: (
        reply(200, b"", KNOWN) if request.method == "HEAD" else error(403, "AccessDenied")
    )
    await store.check_bucket("bucket")


@pytest.mark.parametrize("operation", ["put", "create", "replace", "delete"])
async def test_a_redirect_of_a_write_is_not_followed(operation: str, store: S3, server: ScriptedS3) -> None:
    with ScriptedS3() as elsewhere:
        elsewhere.reply = lambda request: reply(200, b"", KNOWN)
        server.reply = lambda request: reply(307, b"", {"Location": f"{elsewhere.endpoint_url}/bucket/k"})
        for key in KEYS:
            failure = await failure_of(calls_of(store, Ref("bucket", key))[operation]())
            assert (failure.fault, failure.status) == (Fault.UNEXPECTED, "307")
        assert elsewhere.requests == []


@pytest.mark.parametrize("status", [301, 307])
async def test_no_request_follows_a_redirect_to_another_host(status: int, store: S3, server: ScriptedS3) -> None:
    with ScriptedS3() as elsewhere:
        elsewhere.reply = lambda request: held(b"of somebody else")
        another_host = elsewhere.endpoint_url.replace("127.0.0.1", "localhost")
        server.reply = lambda request: reply(status, b"", {"Location": f"{another_host}/bucket/k"})
        for key in KEYS:
            for operation, call in calls_of(store, Ref("bucket", key)).items():
                failure = await failure_of(call())
                assert (failure.fault, failure.status) == (Fault.UNEXPECTED, str(status)), operation
        assert elsewhere.requests == []


@pytest.mark.parametrize("location", ["/bucket/k", ""], ids=["to itself", "to nowhere"])
async def test_a_redirect_without_an_end_is_reported_as_one(location: str, store: S3, server: ScriptedS3) -> None:
    server.reply = lambda request: reply(307, b"", {"Location": location} if location else {})
    for operation, call in calls_of(store, Ref("bucket", "k")).items():
        failure = await failure_of(call())
        assert (failure.fault, failure.status) == (Fault.UNEXPECTED, "307"), operation


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("size", [1, LARGE_BYTES])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_put_that_is_redirected_on_the_same_host_is_not_done(
    status: int, size: int, key: str, store: S3, server: ScriptedS3
) -> None:
    """obstore follows a 303 by a GET, and any page with an ETag would count as the reply to the put."""
    await learn(store, server)

    def said(request: Request) -> Scripted:
        if request.key == "login":
            return reply(200, b"<html>", {**KNOWN, "ETag": '"5f3a-1"'})
        if request.method == "HEAD":
            return reply(404, b"")
        return reply(status, b"", {"Location": "/bucket/login"})

    server.reply = said
    failure = await failure_of(store.put(Ref("bucket", key), b"v" * size))
    assert failure.fault is Fault.UNEXPECTED
    assert failure.ambiguous, "the next attempt looks first"


async def test_puts_of_a_bucket_that_begins_to_encrypt_with_a_key_are_looked_at_a_few_times(
    store: S3, server: ScriptedS3
) -> None:
    await learn(store, server)
    server.reply = lambda request: reply(200, b"", {**KNOWN, "ETag": ETAG})
    server.requests.clear()
    for _ in range(ENOUGH + 5):
        assert await store.put(Ref("bucket", "k"), b"v") == ETAG
    assert server.requested.count("HEAD") == ENOUGH


# ---- ranges


def part_of(request: Request, value: bytes, content_range: str = "", status: int = 206) -> Scripted:
    headers = {**KNOWN, "ETag": etag_of(b"hello")}
    return reply(status, value, {**headers, "Content-Range": content_range} if content_range else headers)


@pytest.mark.parametrize("key", KEYS)
async def test_a_part_of_an_object_is_not_compared_with_the_etag_of_the_whole(
    key: str, store: S3, server: ScriptedS3
) -> None:
    await learn(store, server)
    server.reply = lambda request: part_of(request, b"ell", "bytes 1-3/5")
    for _ in range(2):
        got = await store.get(
            Ref("bucket", key), byte_range=ByteRange(1, 3), if_match=etag_of(b"hello"), max_bytes=3
        )
        assert got == Stored(b"ell", etag_of(b"hello"), size=5)
    fields = server.requests[-1].fields
    assert (fields["range"], fields["if-match"]) == ("bytes=1-3", etag_of(b"hello"))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("status", [200, 206])
@pytest.mark.parametrize(
    ("value", "content_range"),
    [
        (b"hel", "bytes 0-2/5"), (b"ello", "bytes 1-4/5"), (b"el", "bytes 1-2/5"), (b"ell", "bytes 1-3/*"),
        (b"ell", "bytes 1-3"), (b"el", "bytes 1-3/5"), (b"", "bytes */5"),
    ],
)  # fmt: skip
async def test_another_part_than_the_requested_one_is_not_believed(
    value: bytes, content_range: str, status: int, key: str, store: S3, server: ScriptedS3
) -> None:
    server.reply = lambda request: part_of(request, value, content_range, status)
    failure = await failure_of(store.get(Ref("bucket", key), byte_range=ByteRange(1, 3), max_bytes=MIB))
    assert failure.fault in (Fault.UNEXPECTED, Fault.INCOMPLETE)


@pytest.mark.parametrize("key", KEYS)
async def test_a_part_that_does_not_say_which_it_is_is_not_believed(
    key: str, store: S3, server: ScriptedS3
) -> None:
    server.reply = lambda request: part_of(request, b"ell")
    failure = await failure_of(store.get(Ref("bucket", key), byte_range=ByteRange(1, 3), max_bytes=MIB))
    assert failure.fault is Fault.UNEXPECTED


@pytest.mark.parametrize("key", KEYS)
async def test_a_store_that_ignores_ranges_is_cut_from(key: str, store: S3, server: ScriptedS3) -> None:
    server.reply = lambda request: held(b"hello")
    ref = Ref("bucket", key)
    assert await store.get(ref, byte_range=ByteRange(1, 3), max_bytes=5) == Stored(
        b"ell", etag_of(b"hello"), size=5
    )
    assert await store.get(ref, byte_range=ByteRange(5, 3), max_bytes=5) is Absent.BEYOND_END
    with pytest.raises(FailedPrecondition):
        await store.get(ref, byte_range=ByteRange(1, 3), max_bytes=4)


@pytest.mark.parametrize("key", KEYS)
async def test_the_end_of_an_object_is_believed_with_s3s_code_alone(
    key: str, store: S3, server: ScriptedS3
) -> None:
    ref = Ref("bucket", key)
    server.reply = lambda request: error(416, "InvalidRange")
    assert await store.get(ref, byte_range=ByteRange(9, 3), max_bytes=MIB) is Absent.BEYOND_END
    assert (await failure_of(store.get(ref, max_bytes=MIB))).fault is Fault.UNEXPECTED
    for said in (html(416), error(416, "SomethingElse"), error(400, "InvalidRange")):
        server.reply = lambda request, said=said: said
        failure = await failure_of(store.get(ref, byte_range=ByteRange(9, 3), max_bytes=MIB))
        assert failure.fault is Fault.UNEXPECTED


@pytest.mark.parametrize("key", KEYS)
async def test_a_store_that_ignores_conditions_gives_no_part_of_another_version(
    key: str, store: S3, server: ScriptedS3
) -> None:
    server.reply = lambda request: part_of(request, b"ell", "bytes 1-3/5")
    failure = await failure_of(
        store.get(Ref("bucket", key), byte_range=ByteRange(1, 3), if_match='"other"', max_bytes=MIB)
    )
    assert failure.fault is Fault.CHANGED
