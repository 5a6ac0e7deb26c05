"""A body that is passed on while it comes: with bounded memory, and its end only when all of it is verified."""

from __future__ import annotations

import asyncio
from hashlib import md5, sha256

import pytest

from milena_common.s3.body.aws_chunked import AwsChunked
from milena_common.s3.body.checksums import Digests, digest_of
from milena_common.s3.body.streamed import WINDOW_BYTES, StreamedBody
from milena_common.s3.wire.errors import S3Error

VALUE = bytes(range(256)) * 8192  # 2 MiB
PIECE = 2**16


class Sent:
    """A body that comes in pieces; `taken`: bytes that were taken from it. It may end by an error."""

    def __init__(self, body: bytes, error: Exception | None = None) -> None:
        self.length = len(body)
        self.taken = 0
        self._body = body
        self._error = error

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        piece = self._body[self.taken : self.taken + PIECE]
        self.taken += len(piece)
        if not piece and self._error is not None:
            raise self._error
        return piece


def read_all(body: StreamedBody, got: list[bytes]) -> None:
    while piece := body.read(10_000):
        got.append(piece)


async def passed_on(
    sent: bytes,
    headers: dict[str, str],
    payload: str = "",
    *,
    length: int | None = None,
    error: Exception | None = None,
    decoder: AwsChunked | None = None,
) -> tuple[StreamedBody, bytes, BaseException | None]:
    """The body, what the reader got of it, and its error."""
    body = StreamedBody(len(sent) if length is None else length, Digests(headers, payload, with_md5=True))
    got: list[bytes] = []
    reading = asyncio.create_task(asyncio.to_thread(read_all, body, got))
    filling = asyncio.create_task(body.fill(Sent(sent, error), decoder))
    await asyncio.wait((reading, filling), timeout=20)
    filling.exception()
    return body, b"".join(got), reading.exception()


async def test_all_digests_are_verified_on_the_way() -> None:
    headers = {
        f"x-amz-checksum-{name}": digest_of(name, VALUE) for name in ("crc32", "crc32c", "crc64nvme", "sha1")
    }
    body, got, error = await passed_on(VALUE, headers, sha256(VALUE).hexdigest())
    assert (got, error) == (VALUE, None)
    assert body.started
    assert len(body.verified) == 4
    assert body.md5 == md5(VALUE, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    ("headers", "payload", "code"),
    [
        ({"x-amz-checksum-crc64nvme": digest_of("crc64nvme", b"")}, "", "BadDigest"),
        ({"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, "", "BadDigest"),
        ({}, "0" * 64, "XAmzContentSHA256Mismatch"),
    ],
)
async def test_another_body_never_ends(headers: dict[str, str], payload: str, code: str) -> None:
    body, got, error = await passed_on(VALUE, headers, payload)
    assert isinstance(error, OSError)
    assert len(got) < len(VALUE)
    assert isinstance(body.error, S3Error)
    assert body.error.code == code


@pytest.mark.parametrize(
    ("length", "error", "code"),
    [
        (len(VALUE) + 1, None, "IncompleteBody"),
        (len(VALUE) - 1, None, "InvalidRequest"),
        (len(VALUE) + 1, ConnectionResetError("gone"), ""),
    ],
)
async def test_a_body_of_another_length_never_ends(length: int, error: Exception | None, code: str) -> None:
    body, got, failed = await passed_on(VALUE, {}, length=length, error=error)
    assert isinstance(failed, OSError)
    assert len(got) < length
    assert getattr(body.error, "code", "") == code


@pytest.mark.parametrize("right", [True, False])
async def test_a_checksum_behind_the_body_counts(right: bool) -> None:
    checksum = digest_of("crc32", VALUE if right else b"")
    sent = b"%x\r\n%b\r\n0\r\nx-amz-checksum-crc32:%b\r\n\r\n" % (len(VALUE), VALUE, checksum.encode())
    headers = {"x-amz-trailer": "x-amz-checksum-crc32"}
    body, got, error = await passed_on(sent, headers, length=len(VALUE), decoder=AwsChunked())
    assert (error is None, len(got) == len(VALUE)) == (right, right)
    assert body.verified == ({"crc32": checksum} if right else {})


async def test_no_more_than_the_window_is_taken_before_it_is_read() -> None:
    sent = Sent(VALUE)
    body = StreamedBody(len(VALUE), Digests({}, "", with_md5=True))
    filling = asyncio.create_task(body.fill(sent, None))
    for _ in range(200):
        await asyncio.sleep(0)
    assert sent.taken <= WINDOW_BYTES + PIECE
    first = await asyncio.to_thread(body.read, 10)
    assert first == VALUE[:10]
    reading = asyncio.create_task(asyncio.to_thread(read_all, body, []))
    body.fail(ConnectionAbortedError("the request has ended"))
    with pytest.raises(OSError, match="did not come"):
        await reading
    filling.cancel()
