"""Signatures are those of botocore's signers; whatever was changed, or came at another time, is rejected."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from milena_common.s3.signing.identities import AccessKey
from milena_common.s3.signing.signatures import UNSIGNED, Verifier
from milena_common.s3.wire.errors import S3Error
from tests.common.s3.requests_made import KEY, KEYS, request_of, signed

FORMS = ("v4", "v4-query", "v2-query")
URLS = (
    "http://127.0.0.1:9000/bucket/key",
    "http://127.0.0.1:9000/bucket/a%20b%2Bc//%C3%A4%2520",
    "http://bucket.s3.example.com/key",
    "http://127.0.0.1:9000/bucket?uploads",
    "http://127.0.0.1:9000/bucket?prefix=a%2Bb%20c&list-type=2&prefix-x=1&start-after=",
)


def verified(request, now=None, keys=KEYS, domain="s3.example.com"):  # type: ignore[no-untyped-def]
    return Verifier(lambda: keys, domain).verify(replace(request, arrived_at=now or request.arrived_at))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_what_botocore_signs_is_verified(form: str, url: str, method: str) -> None:
    request = signed(form, method, url, time.time())
    found = verified(request)
    assert found is not None
    assert found.key == KEY


def test_the_digest_of_a_body_is_part_of_a_signature() -> None:
    found = verified(signed("v4", "PUT", URLS[0], time.time(), body=b"body"))
    assert found is not None
    assert len(found.payload) == 64
    presigned = verified(signed("v4-query", "PUT", URLS[0], time.time()))
    assert presigned is not None
    assert presigned.payload == UNSIGNED


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_request_is_rejected(form: str) -> None:
    request = signed(form, "GET", URLS[1], time.time(), {"x-amz-meta-a": "1"})
    for changed in (
        replace(request, method="DELETE"),
        replace(request, path="/bucket/other"),
        replace(request, headers={**request.headers, "x-amz-meta-a": "2"}),
    ):
        with pytest.raises(S3Error) as error:
            verified(changed)
        assert error.value.code == "SignatureDoesNotMatch"
    with pytest.raises(S3Error) as error:
        verified(request, keys={KEY.name: AccessKey(KEY.name, "another-secret-of-this", KEY.user)})
    assert error.value.code == "SignatureDoesNotMatch"
    with pytest.raises(S3Error) as error:
        verified(request, keys={})
    assert error.value.code == "InvalidAccessKeyId"


def test_a_header_that_is_not_signed_is_rejected() -> None:
    request = signed("v4", "PUT", URLS[0], time.time())
    with pytest.raises(S3Error) as error:
        verified(replace(request, headers={**request.headers, "x-amz-meta-added": "1"}))
    assert error.value.code == "AccessDenied"


@pytest.mark.parametrize(
    ("form", "later", "code"),
    [
        ("v4", 901, "RequestTimeTooSkewed"),
        ("v4", -902, "RequestTimeTooSkewed"),
        ("v4-query", 62, "AccessDenied"),
        ("v4-query", -902, "AccessDenied"),
        ("v2-query", 62, "AccessDenied"),
    ],
)
def test_a_request_at_another_time_is_rejected(form: str, later: float, code: str) -> None:
    request = signed(form, "GET", URLS[0], time.time())
    with pytest.raises(S3Error) as error:
        verified(request, now=request.arrived_at + later)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"authorization": "AWS4-HMAC-SHA256 Credential=x"}, "AuthorizationHeaderMalformed"),
        ({"authorization": "AWS reader:c2ln"}, "InvalidRequest"),
        ({"authorization": "Basic cmVhZGVyOng="}, "AuthorizationHeaderMalformed"),
        ({"authorization": f"AWS4-HMAC-SHA256 Credential=r/20261130/x/s3/aws4_request,SignedHeaders=host,"
          f"Signature={'0' * 64}", "x-amz-content-sha256": UNSIGNED}, "AccessDenied"),
    ],
)  # fmt: skip
def test_a_malformed_header_is_rejected(headers: dict[str, str], code: str) -> None:
    with pytest.raises(S3Error) as error:
        verified(request_of("GET", URLS[0], headers))
    assert error.value.code == code


def test_a_request_without_a_signature_is_nobodys() -> None:
    assert verified(request_of("GET", URLS[0])) is None
    assert verified(request_of("GET", URLS[4])) is None
