"""What the two clients of S3 make of its failures: each is distinguished, and takes one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from urllib.parse import urlsplit

import boto3
import pytest

from milena_cache.objects.object_store import Absent, Fault, OriginFailure, Ref, Stored
from milena_cache.origin.clients.boto3_client import Boto3Store
from milena_cache.origin.clients.obstore_client import ObstoreStore
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3.settings import S3Settings
from milena_cache.origin.s3_store import S3
from milena_common.runtime.clock import SystemClock
from tests.support.fake_clock import FakeClock
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.faults import (
    ACCESS_DENIED,
    CONDITIONAL_CONFLICT,
    INTERNAL_ERROR,
    NO_SUCH_BUCKET,
    NO_SUCH_KEY,
    NOT_IMPLEMENTED,
    OPERATION_ABORTED,
    PRECONDITION_FAILED,
    SLOW_DOWN,
    Drip,
    Hang,
    LoseRequest,
    LoseResponse,
    Reply,
    TruncatedBody,
)
from tests.support.s3.faults import Fault as Injected

MIB = 2**20
ETAG = '"0123456789abcdef0123456789abcdef"'

Store = Boto3Store | ObstoreStore


@pytest.fixture(params=["obstore", "boto3"])
async def store(
    request: pytest.FixtureRequest, credentials: Credentials, settings: S3Settings
) -> AsyncIterator[Store]:
    if request.param == "obstore":
        yield ObstoreStore(credentials, settings)
    else:
        thorough = Boto3Store(credentials, settings)
        yield thorough
        await thorough.close()


@pytest.fixture
async def pair(credentials: Credentials, settings: S3Settings) -> AsyncIterator[S3]:
    made = S3(credentials, settings, FakeClock(), negative_ttl=0)
    yield made
    await made.close()


FAULTS: list[tuple[Injected, Fault, str]] = [
    (INTERNAL_ERROR, Fault.SERVER, "500"),
    (SLOW_DOWN, Fault.THROTTLED, "503"),
    (OPERATION_ABORTED, Fault.BUSY, "409"),
    (ACCESS_DENIED, Fault.DENIED, "403"),
    (NO_SUCH_BUCKET, Fault.NO_BUCKET, "404"),
    (NOT_IMPLEMENTED, Fault.UNSUPPORTED, "501"),
    (Reply(400, "InvalidArgument"), Fault.REJECTED, "400"),
    (LoseResponse(), Fault.INCOMPLETE, "incomplete"),
    (LoseRequest(), Fault.INCOMPLETE, "incomplete"),
    (Hang(), Fault.TIMEOUT, "timeout"),
]
# What S3 replies to writes with a condition.
FAULTS_OF_CONDITIONS: list[tuple[Injected, Fault, str]] = [
    (CONDITIONAL_CONFLICT, Fault.BUSY, "409"),
    (PRECONDITION_FAILED, Fault.CHANGED, "412"),
]


def named(rows: list[tuple[Injected, Fault, str]]) -> list[str]:
    return [getattr(row[0], "code", type(row[0]).__name__) for row in rows]


async def expect(
    call: Callable[[], Awaitable[object]], proxy: FaultProxy, injected: Injected, fault: Fault, status: str
) -> None:
    """`call` meets `injected`, and fails with `fault` after one request."""
    proxy.clear_requests()
    proxy.inject(injected)
    with pytest.raises(OriginFailure) as caught:
        await call()
    assert (caught.value.fault, caught.value.status) == (fault, status)
    if isinstance(injected, Reply):
        assert injected.code in str(caught.value)
    assert len(proxy.requests()) == 1, "the client must leave further attempts to others"


@pytest.mark.parametrize("operation", ["get", "put"])
@pytest.mark.parametrize(("injected", "fault", "status"), FAULTS, ids=named(FAULTS))
async def test_faults_of_s3_are_distinguished(
    operation: str, injected: Injected, fault: Fault, status: str, store: Store, bucket: str, s3_proxy: FaultProxy
) -> None:
    ref = Ref(bucket, "k")
    await store.put(ref, b"v")
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: store.get(ref, max_bytes=MIB),
        "put": lambda: store.put(ref, b"w"),
    }
    await expect(calls[operation], s3_proxy, injected, fault, status)


@pytest.mark.parametrize("key", ["k", "/odd/"])
@pytest.mark.parametrize(("injected", "fault", "status"), FAULTS, ids=named(FAULTS))
async def test_faults_of_a_delete_are_distinguished(
    key: str, injected: Injected, fault: Fault, status: str, pair: S3, bucket: str, s3_proxy: FaultProxy
) -> None:
    await expect(lambda: pair.delete(Ref(bucket, key)), s3_proxy, injected, fault, status)


@pytest.mark.parametrize("condition", ["if-match", "if-none-match"])
@pytest.mark.parametrize(
    ("injected", "fault", "status"),
    [*FAULTS, *FAULTS_OF_CONDITIONS, (NO_SUCH_KEY, Fault.CHANGED, "404")],
    ids=[*named(FAULTS), *named(FAULTS_OF_CONDITIONS), "NoSuchKey"],
)
async def test_outcomes_of_a_conditional_put_are_distinguished(
    condition: str, injected: Injected, fault: Fault, status: str, store: Store, bucket: str, s3_proxy: FaultProxy
) -> None:
    ref = Ref(bucket, "k")
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "if-match": lambda: store.put(ref, b"w", if_match=ETAG, metadata={"milena-version": "7-12"}),
        "if-none-match": lambda: store.put(ref, b"w", if_absent=True, metadata={"milena-version": "7-12"}),
    }
    await expect(calls[condition], s3_proxy, injected, fault, status)
    [request] = s3_proxy.requests()
    assert request.fields[condition] == {"if-match": ETAG, "if-none-match": "*"}[condition]
    assert request.fields["x-amz-meta-milena-version"] == "7-12"


@pytest.mark.parametrize("key", ["k", "/odd/"])
@pytest.mark.parametrize(
    ("injected", "fault", "status"),
    [*FAULTS, *FAULTS_OF_CONDITIONS],
    ids=[*named(FAULTS), *named(FAULTS_OF_CONDITIONS)],
)
async def test_outcomes_of_a_conditional_delete_are_distinguished(
    key: str, injected: Injected, fault: Fault, status: str, pair: S3, bucket: str, s3_proxy: FaultProxy
) -> None:
    ref = Ref(bucket, key)
    await expect(lambda: pair.delete(ref, if_match=ETAG), s3_proxy, injected, fault, status)
    [request] = s3_proxy.requests("DELETE", key)
    assert request.fields["if-match"] == ETAG


async def test_a_conditional_delete_of_nothing_is_done(pair: S3, bucket: str, s3_proxy: FaultProxy) -> None:
    rule = s3_proxy.inject(NO_SUCH_KEY)
    await pair.delete(Ref(bucket, "k"), if_match=ETAG)
    assert rule.applied == 1


@pytest.mark.parametrize("key", ["k", " k ", 'a"b', "/odd/"])
async def test_a_delete_is_one_request_for_exactly_its_key(
    key: str, pair: S3, bucket: str, s3_proxy: FaultProxy
) -> None:
    await pair.put(Ref(bucket, key), b"v")
    s3_proxy.clear_requests()
    await pair.delete(Ref(bucket, key))
    assert [(request.method, request.key) for request in s3_proxy.requests()] == [("DELETE", key)]
    assert await pair.get(Ref(bucket, key), max_bytes=MIB) is Absent.MISSING


def _put(url: str, headers: dict[str, bytes]) -> Mapping[str, str]:
    parts = urlsplit(url)
    with closing(HTTPConnection(parts.netloc)) as connection:
        connection.putrequest("PUT", parts.path)
        for name, value in {**headers, "Content-Length": b"1"}.items():
            connection.putheader(name, value)
        connection.endheaders(b"v")
        with connection.getresponse() as response:
            assert response.status == 200
            return dict(response.headers)


async def test_what_obstore_cannot_read_is_read_all_the_same(pair: S3, bucket: str, s3_proxy: FaultProxy) -> None:
    ref = Ref(bucket, "k")
    # Unlike AWS itself, some servers reply with the bytes beyond ASCII that another program has given them.
    metadata = {"x-amz-meta-author": "Zoë".encode(), "x-amz-meta-milena-version": b"7-12"}
    response = await asyncio.to_thread(_put, f"{s3_proxy.endpoint_url}/{bucket}/k", metadata)
    etag = response["ETag"]
    s3_proxy.clear_requests()
    assert await pair.get(ref, max_bytes=MIB) == Stored(b"v", etag)
    info = await pair.head(ref)
    assert info is not None
    assert (info.etag, info.metadata["milena-version"]) == (etag, "7-12")
    assert (s3_proxy.count("GET"), s3_proxy.count("HEAD")) == (2, 2), "obstore can read it now"


@pytest.mark.parametrize("after", [0, 100, 99_999])
async def test_a_truncated_body_is_never_a_value(
    after: int, store: Store, bucket: str, s3_proxy: FaultProxy
) -> None:
    await store.put(Ref(bucket, "k"), b"x" * 100_000)
    s3_proxy.inject(TruncatedBody(after))
    with pytest.raises(OriginFailure) as caught:
        await store.get(Ref(bucket, "k"), max_bytes=MIB)
    assert caught.value.fault.retryable


@pytest.mark.parametrize("kind", ["obstore", "boto3"])
async def test_each_request_of_a_fresh_store_has_a_connection_of_its_own(
    kind: str, credentials: Credentials, settings: S3Settings, bucket: str, s3_proxy: FaultProxy
) -> None:
    made: Store
    fresh: Store
    if kind == "obstore":
        made, fresh = ObstoreStore(credentials, settings), ObstoreStore(credentials, settings, pooled=False)
    else:
        made, fresh = Boto3Store(credentials, settings), Boto3Store(credentials, settings, pooled=False)
    s3_proxy.inject(NO_SUCH_KEY)  # the stand-in for S3 would end each connection by itself
    for store, connections in ((made, 1), (fresh, 3)):
        before = s3_proxy.connections
        for _ in range(3):
            await store.get(Ref(bucket, "k"), max_bytes=MIB)
        assert s3_proxy.connections - before == connections
    before = s3_proxy.connections
    made.reconnect()
    await made.get(Ref(bucket, "k"), max_bytes=MIB)
    assert s3_proxy.connections - before == 1


@pytest.mark.parametrize("key", ["k", "/odd/"])
async def test_a_read_on_a_connection_that_died_silently_succeeds_on_another(
    key: str, pair: S3, credentials: Credentials, settings: S3Settings, bucket: str, s3_proxy: FaultProxy
) -> None:
    await pair.put(Ref(bucket, key), b"v")
    patient = replace(settings, timeout=60.0)
    store = S3(credentials, patient, FakeClock(), negative_ttl=0)
    origin = Origin(
        store,
        SystemClock(),
        lambda: 0.5,
        fresh=store.unpooled(),
        retries=0,
        concurrency=10,
        place_timeout=5,
        hedge_after=0.05,
    )
    s3_proxy.inject(Hang(), times=1)
    reply = await asyncio.wait_for(origin.get(Ref(bucket, key), max_bytes=MIB), 20)
    assert isinstance(reply, Stored)
    assert reply.value == b"v"
    s3_proxy.heal()
    s3_proxy.reject()  # ends the thread of boto3 that still waits
    await origin.close()


async def test_a_slow_transfer_is_no_failure_as_long_as_bytes_move(
    store: Store, bucket: str, s3_proxy: FaultProxy
) -> None:
    await store.put(Ref(bucket, "k"), b"v" * 8)
    s3_proxy.inject(Drip(0.1), method="GET")
    reply = await store.get(Ref(bucket, "k"), max_bytes=MIB)
    assert isinstance(reply, Stored)
    assert reply.value == b"v" * 8, "in more time than S3 may be silent"


async def test_a_refused_connection_is_reported(store: Store, bucket: str, s3_proxy: FaultProxy) -> None:
    with s3_proxy.refusing(), pytest.raises(OriginFailure) as caught:
        await store.get(Ref(bucket, "k"), max_bytes=MIB)
    assert (caught.value.fault, caught.value.status) == (Fault.CONNECT, "connect")


TRICKY = ["credentials/other", "<Code>NoSuchBucket</Code>", "kind: Timeout", "- status code: 403 ", "e"]


@pytest.mark.parametrize("key", TRICKY)
async def test_what_a_key_says_is_not_taken_for_what_s3_says(
    key: str, credentials: Credentials, settings: S3Settings, bucket: str, s3_proxy: FaultProxy
) -> None:
    store, ref = ObstoreStore(credentials, settings), Ref(bucket, key)
    assert await store.get(ref, max_bytes=MIB) is Absent.MISSING
    with s3_proxy.refusing(), pytest.raises(OriginFailure) as caught:
        await store.put(ref, b"v")
    assert caught.value.fault is Fault.CONNECT
    s3_proxy.inject(ACCESS_DENIED, times=1)
    with pytest.raises(OriginFailure) as caught:
        await store.get(ref, max_bytes=MIB)
    assert (caught.value.fault, caught.value.code) == (Fault.DENIED, "AccessDenied")
    s3_proxy.inject(Hang(), times=1)
    with pytest.raises(OriginFailure) as caught:
        await store.put(ref, b"v")
    assert caught.value.fault is Fault.TIMEOUT


async def test_an_endpoint_that_boto3_cannot_use_is_reported(credentials: Credentials) -> None:
    store = Boto3Store(credentials, S3Settings("us-east-1", "http://no_such:1", 0.5, 0.5))
    with pytest.raises(OriginFailure, match="no_such"):
        await store.check_bucket("some-bucket")


@pytest.mark.parametrize("kind", ["obstore", "boto3"])
async def test_missing_credentials_are_reported(
    kind: str, settings: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    bare = boto3.Session(region_name="us-east-1")
    none = Credentials(settings, lambda: bare)
    store = Boto3Store(none, settings) if kind == "boto3" else ObstoreStore(none, settings)
    with pytest.raises(OriginFailure, match=r"(?i)credentials") as caught:
        await store.get(Ref("some-bucket", "k"), max_bytes=MIB)
    assert caught.value.fault is Fault.ACCOUNT
