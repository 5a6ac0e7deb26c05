"""Neither client of S3 reads the environment behind the node's back, and both renew what has expired."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import boto3
import pytest

from milena_cache.objects.object_store import Fault, OriginFailure, Ref, Stored
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3.proxy import FILE_SECONDS, Proxy
from milena_cache.origin.s3.settings import S3Settings
from milena_cache.origin.s3_store import S3
from tests.support.fake_clock import FakeClock
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.faults import Reply

MIB = 2**20
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
NOWHERE = "http://127.0.0.1:1"
# obstore's key, and one that is boto3's.
KEYS = pytest.mark.parametrize("key", ["k", "/odd/"])

POISON = {
    "AWS_ENDPOINT": NOWHERE,
    "AWS_ENDPOINT_URL": NOWHERE,
    "AWS_ENDPOINT_URL_S3": NOWHERE,
    "AWS_SKIP_SIGNATURE": "true",
    "AWS_CONDITIONAL_PUT": "disabled",
    "AWS_S3_EXPRESS": "true",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    "AWS_UNSIGNED_PAYLOAD": "true",
    "AWS_REQUEST_PAYER": "requester",
    "AWS_ALLOW_HTTP": "false",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_MAX_ATTEMPTS": "10",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
    "HTTP_PROXY": NOWHERE,
    "http_proxy": NOWHERE,
    "ALL_PROXY": NOWHERE,
    "NO_PROXY": "elsewhere",
    "REQUESTS_CA_BUNDLE": "/nonexistent",
}


@pytest.fixture(params=[True, False], ids=["pooled", "fresh"])
async def pair(
    request: pytest.FixtureRequest,
    credentials: Credentials,
    settings: S3Settings,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[S3]:
    for name, value in POISON.items():
        monkeypatch.setenv(name, value)
    made = S3(credentials, settings, FakeClock(), negative_ttl=0, pooled=request.param)
    yield made
    await made.close()


@KEYS
async def test_no_variable_changes_what_the_clients_were_given(
    key: str, pair: S3, bucket: str, s3_proxy: FaultProxy
) -> None:
    ref = Ref(bucket, key)
    s3_proxy.clear_requests()
    etag = await pair.put(ref, b"v", if_absent=True)
    await pair.put(ref, b"w", if_match=etag)
    got = await pair.get(ref, max_bytes=MIB)
    assert isinstance(got, Stored)
    assert got.value == b"w"
    assert await pair.head(ref) is not None
    await pair.list(bucket, "", "", 10)
    await pair.check_bucket(bucket)
    await pair.delete(ref)
    requests = s3_proxy.requests()
    assert len(requests) == 9, "the check of the bucket reads by each client"
    for request in requests:
        assert "/us-east-1/s3/aws4_request" in request.fields["authorization"]
        assert "x-amz-request-payer" not in request.fields
        assert "x-amz-checksum-crc32" not in request.fields


@KEYS
async def test_both_clients_go_through_the_proxy_that_they_are_given(
    key: str, session: boto3.Session, bucket: str, s3_proxy: FaultProxy, tmp_path: Path
) -> None:
    """Also by one in a file that another one has replaced."""
    s3_proxy.inject(Reply(418, "ProxyWasHere"))
    file, clock = tmp_path / "proxy", FakeClock()
    file.write_text("http://127.0.0.1:9")
    for more in ({"proxy_url": s3_proxy.endpoint_url}, {"proxy_file": str(file)}):
        away = S3Settings("us-east-1", "http://s3.example.invalid:9000", 5, 5, **more)  # type: ignore[arg-type]
        credentials = Credentials(away, lambda: session)
        credentials.proxy = Proxy(away, clock.now)
        store = S3(credentials, away, FakeClock(), negative_ttl=0)
        if more.get("proxy_file"):
            with pytest.raises(OriginFailure) as raised:
                await store.get(Ref(bucket, key), max_bytes=MIB)
            assert "ProxyWasHere" not in str(raised.value)
            file.write_text(s3_proxy.endpoint_url)
            await clock.advance(FILE_SECONDS)
        with pytest.raises(OriginFailure, match="ProxyWasHere"):
            await store.get(Ref(bucket, key), max_bytes=MIB)
        await store.close()


class Rotating:
    """Stands in for a session of boto3 that gets other temporary credentials each time it is made."""

    def __init__(self, settings: S3Settings) -> None:
        self.made = 0
        self.credentials = Credentials(settings, self._session)

    def _session(self) -> boto3.Session:
        self.made += 1
        return boto3.Session(
            aws_access_key_id=f"KEY{self.made}",
            aws_secret_access_key=SECRET,
            aws_session_token=f"token-{self.made}-{SECRET}",
            region_name="us-east-1",
        )


@KEYS
@pytest.mark.parametrize("operation", ["get", "head", "put", "delete", "list", "bucket"])
async def test_a_request_whose_credentials_have_expired_is_made_once_more_with_new_ones(
    operation: str, key: str, settings: S3Settings, bucket: str, s3_proxy: FaultProxy
) -> None:
    source = Rotating(settings)
    store = S3(source.credentials, settings, FakeClock(), negative_ttl=0)
    ref = Ref(bucket, key)
    await source.credentials.obtain()
    s3_proxy.inject(
        Reply(400, "ExpiredToken", "The provided token has expired."),
        where=lambda request: "Credential=KEY1/" in request.fields.get("authorization", ""),
    )
    calls = {
        "get": lambda: store.get(ref, max_bytes=MIB),
        "head": lambda: store.head(ref),
        "put": lambda: store.put(ref, b"v"),
        "delete": lambda: store.delete(ref),
        "list": lambda: store.list(bucket, "", "", 10),
        "bucket": lambda: store.check_bucket(bucket),
    }
    s3_proxy.clear_requests()
    await calls[operation]()
    used = [request.fields["authorization"].partition("Credential=")[2][:4] for request in s3_proxy.requests()]
    if operation in ("get", "put", "delete", "list"):
        assert used == ["KEY1", "KEY2"]
    else:  # what the reply to a HEAD means is found by a request whose reply has a code
        assert (used[0], used[-1], source.made) == ("KEY1", "KEY2", 2)
    await store.close()


@KEYS
async def test_credentials_that_s3_rejects_for_good_are_not_fetched_again_and_again(
    key: str, settings: S3Settings, bucket: str, s3_proxy: FaultProxy
) -> None:
    source = Rotating(settings)
    store = S3(source.credentials, settings, FakeClock(), negative_ttl=0)
    s3_proxy.inject(Reply(400, "ExpiredToken", f"token-1-{SECRET} has expired"))
    for _ in range(3):
        with pytest.raises(OriginFailure) as caught:
            await store.get(Ref(bucket, key), max_bytes=MIB)
        assert not caught.value.fault.of_object, "copies are served meanwhile"
        assert SECRET not in str(caught.value)
        assert SECRET not in str(caught.value.as_error())
    assert source.made <= 3
    await store.close()


@KEYS
async def test_credentials_with_a_line_end_inside_are_rejected_without_being_shown(
    key: str, settings: S3Settings, bucket: str
) -> None:
    frozen = SimpleNamespace(access_key="AKIAX", secret_key=SECRET, token=f"{SECRET}\nrest")
    found = SimpleNamespace(get_frozen_credentials=lambda: frozen)
    session = cast(boto3.Session, SimpleNamespace(get_credentials=lambda: found))
    store = S3(Credentials(settings, lambda: session), settings, FakeClock(), negative_ttl=0)
    with pytest.raises(OriginFailure) as caught:
        await store.get(Ref(bucket, key), max_bytes=MIB)
    assert caught.value.fault is Fault.ACCOUNT
    assert SECRET not in str(caught.value)
    await store.close()
