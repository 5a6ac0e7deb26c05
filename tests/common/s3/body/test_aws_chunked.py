"""Bodies in the aws-chunked format, however they are divided, with the example of AWS's documentation."""

from __future__ import annotations

import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.s3.body.aws_chunked import AwsChunked
from milena_common.s3.signing.signatures import ChunkSignatures
from milena_common.s3.wire.errors import S3Error

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SCOPE = "20130524/us-east-1/s3/aws4_request"
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
SIGNATURES = (
    "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
)


def example_signatures() -> ChunkSignatures:
    key = f"AWS4{SECRET}".encode()
    for part in SCOPE.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return ChunkSignatures(key, "20130524T000000Z", SCOPE, SEED)


def example() -> bytes:
    parts = ((b"a" * 65536, SIGNATURES[0]), (b"a" * 1024, SIGNATURES[1]), (b"", SIGNATURES[2]))
    return b"".join(
        b"%x;chunk-signature=%s\r\n%s\r\n" % (len(data), signature.encode(), data) for data, signature in parts
    )


def decoded(decoder: AwsChunked, body: bytes, size: int) -> bytes:
    parts = [part for at in range(0, len(body), size) for part in decoder.feed(body[at : at + size])]
    return b"".join(parts)


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_the_signed_chunks_of_the_documentation(size: int) -> None:
    decoder = AwsChunked(example_signatures())
    assert decoded(decoder, example(), size) == b"a" * 66560
    assert decoder.complete


def test_a_changed_chunk_is_rejected() -> None:
    with pytest.raises(S3Error) as error:
        decoded(AwsChunked(example_signatures()), example().replace(b"aaaa", b"aaab", 1), 1000)
    assert error.value.code == "SignatureDoesNotMatch"


def test_signed_trailers() -> None:
    signatures = example_signatures()
    last = signatures.of_chunk(SIGNATURES[1], sha256().hexdigest())
    trailer = "x-amz-checksum-crc32c:sOO8/Q=="
    signature = signatures.of_trailer(last, sha256(f"{trailer}\n".encode()).hexdigest())
    body = example()[: -len(SIGNATURES[2]) - len("0;chunk-signature=\r\n\r\n")]
    body += f"0;chunk-signature={last}\r\n{trailer}\r\nx-amz-trailer-signature:{signature}\r\n\r\n".encode()
    decoder = AwsChunked(signatures, signed_trailers=True)
    decoded(decoder, body, 100)
    assert decoder.trailers == {"x-amz-checksum-crc32c": "sOO8/Q=="}
    with pytest.raises(S3Error) as error:
        decoded(AwsChunked(signatures, signed_trailers=True), body.replace(b"sOO8", b"sOO9"), 100)
    assert error.value.code == "SignatureDoesNotMatch"


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.integers(1, 30), st.booleans())
def test_unsigned_chunks_and_trailers(parts: list[bytes], size: int, trailer: bool) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n"
    body += b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n" if trailer else b"\r\n"
    decoder = AwsChunked()
    assert decoded(decoder, body, size) == b"".join(parts)
    assert decoder.complete
    assert decoder.trailers == ({"x-amz-checksum-crc32": "AAAAAA=="} if trailer else {})


@pytest.mark.parametrize(
    "body", [b"3\r\nabcd\r\n0\r\n\r\n", b"x\r\n", b"0\r\n\r\nmore", b"0\r\nnothing\r\n\r\n", b"1" * 2000]
)
def test_a_body_that_is_not_in_the_format(body: bytes) -> None:
    with pytest.raises(S3Error) as error:
        decoded(AwsChunked(), body, 10)
    assert error.value.code == "InvalidRequest"


def test_a_body_that_ends_early_is_not_complete() -> None:
    decoder = AwsChunked()
    assert decoded(decoder, b"400\r\nabc", 10) == b"abc"
    assert not decoder.complete
