"""One contract for every `ObjectStore`: in memory, boto3, obstore with boto3, and the same with attempts."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable

import boto3
import pytest
from mypy_boto3_s3 import S3Client

from milena_cache.origin import Origin
from milena_cache.s3 import S3
from milena_cache.s3_boto3 import Boto3Store
from milena_cache.s3_obstore import ObstoreStore, exact
from milena_cache.s3_settings import S3Settings
from milena_cache.store import Absent, Fault, ObjectStore, OriginFailure, Ref, Stored
from milena_common.errors import FailedPrecondition
from tests.support.fake_clock import FakeClock
from tests.support.fault_proxy import FaultProxy
from tests.support.faults import (
    ACCESS_DENIED,
    INTERNAL_ERROR,
    NO_SUCH_BUCKET,
    OPERATION_ABORTED,
    SLOW_DOWN,
    Answer,
    CutBody,
    Hang,
    LoseAnswer,
)
from tests.support.faults import Fault as Injected
from tests.support.memory_store import MemoryStore

MIB = 2**20

ORDINARY_KEYS = [
    "k", "a/b/c", "100%", "a%20b", "a%2Fb", "with space", "a+b", "a?b=c&d", "a#b", "~*'()!", "\\back\\slash",
    '"quoted"', "<xml>&amp;", "ünïcode", "😀/🎉", ".hidden", "...", "a:b@c,d;e=f$g", "\u00a0\u2028", "x" * 1024,
]  # fmt: skip
ODD_KEYS = ["/lead", "trail/", "a//b", "//", "/", "a/./b", "a/../b", "tab\there", "\x01", "del\x7f"]


class NoSleep(FakeClock):
    """Backoff between attempts takes no time."""

    async def sleep(self, seconds: float) -> None:
        self.tick(seconds)


def session() -> boto3.Session:
    return boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")


@pytest.fixture
def settings(s3_proxy: FaultProxy) -> S3Settings:
    return S3Settings("us-east-1", s3_proxy.endpoint_url, timeout=0.5, connect_timeout=0.5)


@pytest.fixture(params=["memory", "s3", "boto3", "origin"])
async def store(request: pytest.FixtureRequest, settings: S3Settings, bucket: str) -> AsyncIterator[ObjectStore]:
    made: ObjectStore
    if request.param == "memory":
        made = MemoryStore(bucket)
    else:
        fast, thorough = ObstoreStore(session(), settings), Boto3Store(session(), settings)
        pair = S3(fast, thorough)
        made = {
            # obstore where it is exact, boto3 for the rest: obstore alone does not meet the contract.
            "s3": pair,
            "boto3": thorough,
            "origin": Origin(pair, NoSleep(), random.random, retries=0, concurrency=8, place_timeout=5),
        }[request.param]
    yield made
    await made.close()


async def test_an_object_is_stored_read_and_removed(store: ObjectStore, bucket: str) -> None:
    ref = Ref(bucket, "k")
    assert await store.get(ref, max_bytes=MIB) is Absent.MISSING
    assert await store.head(ref) is None
    etag = await store.put(ref, b"one")
    assert await store.get(ref, max_bytes=MIB) == Stored(b"one", etag)
    info = await store.head(ref)
    assert info is not None
    assert (info.key, info.size, info.etag) == ("k", 3, etag)
    second = await store.put(ref, b"two")
    assert second != etag
    assert await store.get(ref, max_bytes=MIB) == Stored(b"two", second)
    await store.delete(ref)
    assert await store.get(ref, max_bytes=MIB) is Absent.MISSING
    await store.delete(ref)


async def test_a_conditional_get_tells_whether_the_object_changed(store: ObjectStore, bucket: str) -> None:
    ref = Ref(bucket, "k")
    etag = await store.put(ref, b"one")
    assert await store.get(ref, if_none_match=etag, max_bytes=MIB) is Absent.NOT_MODIFIED
    newer = await store.put(ref, b"two")
    assert await store.get(ref, if_none_match=etag, max_bytes=MIB) == Stored(b"two", newer)
    await store.delete(ref)
    assert await store.get(ref, if_none_match=newer, max_bytes=MIB) is Absent.MISSING


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 1])
async def test_values_come_back_byte_for_byte(store: ObjectStore, bucket: str, size: int) -> None:
    ref = Ref(bucket, "k")
    value = random.Random(size).randbytes(size)
    await store.put(ref, value)
    got = await store.get(ref, max_bytes=size)
    assert isinstance(got, Stored)
    assert got.value == value
    assert type(got.value) is bytes


async def test_an_object_over_the_limit_is_refused_with_both_sizes(store: ObjectStore, bucket: str) -> None:
    ref = Ref(bucket, "k")
    await store.put(ref, b"x" * 100)
    with pytest.raises(FailedPrecondition, match=r"100 bytes.*99"):
        await store.get(ref, max_bytes=99)


@pytest.mark.parametrize("key", ORDINARY_KEYS + ODD_KEYS)
async def test_every_key_is_exact(store: ObjectStore, bucket: str, key: str, s3: S3Client) -> None:
    value = key.encode()
    await store.put(Ref(bucket, key), value)
    got = await store.get(Ref(bucket, key), max_bytes=MIB)
    assert isinstance(got, Stored)
    assert got.value == value
    if isinstance(store, MemoryStore):
        return
    # Seen by somebody else, under the same name and no other.
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == value
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    if key not in (".", "/"):  # the stand-in has trouble removing those
        await store.delete(Ref(bucket, key))
        assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


async def test_listing_pages_in_the_order_of_keys(store: ObjectStore, bucket: str) -> None:
    keys = ["a", "b/1", "b/2", "b/3 x", "b/😀", "c"]
    for key in keys:
        await store.put(Ref(bucket, key), b"12")
    found: list[str] = []
    cursor = ""
    while True:
        page = await store.list(bucket, "b/", cursor, 3)
        found += [info.key for info in page.objects]
        assert all(info.size == 2 for info in page.objects)
        cursor = page.cursor
        if not cursor:
            break
    assert found == ["b/1", "b/2", "b/3 x", "b/😀"]
    assert (await store.list(bucket, "none", "", 3)).objects == []


async def test_a_missing_bucket_is_not_a_missing_object(store: ObjectStore, bucket: str) -> None:
    await store.check_bucket(bucket)
    ref = Ref("no-such-bucket-here", "k")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.get(ref, max_bytes=MIB),
        lambda: store.put(ref, b"v"),
        lambda: store.list(ref.bucket, "", "", 10),
        lambda: store.check_bucket(ref.bucket),
    ]
    for call in calls:
        with pytest.raises(OriginFailure, match="no-such-bucket-here") as caught:
            await call()
        assert caught.value.fault is Fault.NO_BUCKET


FAULTS: list[tuple[Injected, Fault, str]] = [
    (INTERNAL_ERROR, Fault.SERVER, "500"),
    (SLOW_DOWN, Fault.THROTTLED, "503"),
    (OPERATION_ABORTED, Fault.SERVER, "409"),
    (ACCESS_DENIED, Fault.DENIED, "403"),
    (NO_SUCH_BUCKET, Fault.NO_BUCKET, "404"),
    (Answer(400, "InvalidArgument"), Fault.REFUSED, "400"),
    (LoseAnswer(), Fault.INCOMPLETE, "incomplete"),
    (Hang(), Fault.TIMEOUT, "timeout"),
]


@pytest.mark.parametrize("kind", ["obstore", "boto3"])
@pytest.mark.parametrize("operation", ["get", "put", "delete"])
@pytest.mark.parametrize(("injected", "fault", "status"), FAULTS, ids=[str(row[0])[:40] for row in FAULTS])
async def test_what_s3_does_wrong_is_told_apart(
    kind: str,
    operation: str,
    injected: Injected,
    fault: Fault,
    status: str,
    settings: S3Settings,
    bucket: str,
    s3_proxy: FaultProxy,
) -> None:
    store = Boto3Store(session(), settings) if kind == "boto3" else ObstoreStore(session(), settings)
    ref = Ref(bucket, "k")
    await store.put(ref, b"v")
    s3_proxy.forget_requests()
    s3_proxy.inject(injected)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: store.get(ref, max_bytes=MIB),
        "put": lambda: store.put(ref, b"w"),
        "delete": lambda: store.delete(ref),
    }
    with pytest.raises(OriginFailure) as caught:
        await calls[operation]()
    assert (caught.value.fault, caught.value.status) == (fault, status)
    if isinstance(injected, Answer):
        assert injected.code in str(caught.value)
    assert len(s3_proxy.requests()) == 1, "the client must leave further attempts to `origin`"


@pytest.mark.parametrize("kind", ["obstore", "boto3"])
@pytest.mark.parametrize("after", [0, 100, 99_999])
async def test_a_body_cut_short_is_never_a_value(
    kind: str, after: int, settings: S3Settings, bucket: str, s3_proxy: FaultProxy
) -> None:
    store = Boto3Store(session(), settings) if kind == "boto3" else ObstoreStore(session(), settings)
    await store.put(Ref(bucket, "k"), b"x" * 100_000)
    s3_proxy.inject(CutBody(after))
    with pytest.raises(OriginFailure) as caught:
        await store.get(Ref(bucket, "k"), max_bytes=MIB)
    assert caught.value.fault.retryable


@pytest.mark.parametrize("kind", ["obstore", "boto3"])
async def test_a_refused_connection_is_told(
    kind: str, settings: S3Settings, bucket: str, s3_proxy: FaultProxy
) -> None:
    store = Boto3Store(session(), settings) if kind == "boto3" else ObstoreStore(session(), settings)
    with s3_proxy.refusing(), pytest.raises(OriginFailure) as caught:
        await store.get(Ref(bucket, "k"), max_bytes=MIB)
    assert (caught.value.fault, caught.value.status) == (Fault.CONNECT, "connect")


TRICKY = ["credentials/other", "<Code>NoSuchBucket</Code>", "kind: Timeout", "- status code: 403 ", "e"]


@pytest.mark.parametrize("key", TRICKY)
async def test_what_a_key_says_is_not_taken_for_what_s3_says(
    key: str, settings: S3Settings, bucket: str, s3_proxy: FaultProxy
) -> None:
    store, ref = ObstoreStore(session(), settings), Ref(bucket, key)
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


async def test_an_endpoint_that_boto3_cannot_use_is_told() -> None:
    store = Boto3Store(session(), S3Settings("us-east-1", "http://no_such:1", 0.5, 0.5))
    with pytest.raises(OriginFailure, match="no_such"):
        await store.check_bucket("some-bucket")


@pytest.mark.parametrize("kind", ["obstore", "boto3"])
async def test_missing_credentials_are_told(
    kind: str, settings: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    bare = boto3.Session(region_name="us-east-1")
    store = Boto3Store(bare, settings) if kind == "boto3" else ObstoreStore(bare, settings)
    with pytest.raises(OriginFailure, match=r"(?i)credentials") as caught:
        await store.get(Ref("some-bucket", "k"), max_bytes=MIB)
    assert caught.value.fault is Fault.DENIED


def test_which_keys_obstore_would_alter() -> None:
    assert [key for key in ORDINARY_KEYS if not exact(key)] == []
    assert [key for key in ODD_KEYS if exact(key)] == []
