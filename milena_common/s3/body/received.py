"""Coordination. Receives the body of a request as one value, within the process's budget of bytes.

The bytes are taken from the budget before the client is asked to send them (`100 Continue`). A body whose length is
not known takes as much as the largest value: waiting for room in its middle would keep what it has already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, Protocol

from milena_common.limits.byte_budget import ByteBudget
from milena_common.s3.body.aws_chunked import AwsChunked
from milena_common.s3.signing.signatures import STREAMING, ChunkSignatures
from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.kept_properties import AWS_CHUNKED
from milena_common.s3.wire.request import S3Request

# Copies of a body that exist at a time: its parts, the value, and what is sent to another node.
COPIES: Final = 3
_STREAMING: Final = (
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
)


class Body(Protocol):
    """The body of a request that is being received. `length`: in bytes as sent; None if it is not known."""

    @property
    def length(self) -> int | None: ...

    async def read(self) -> bytes:
        """Return the next bytes, b"" at the end. Raises ConnectionError if the client ends it before."""


class Received(NamedTuple):
    """A body. `trailers`: by name in lower case."""

    value: bytes
    trailers: Mapping[str, str]


@asynccontextmanager
async def receive(
    request: S3Request,
    body: Body,
    payload: str,
    signatures: ChunkSignatures | None,
    budget: ByteBudget,
    max_bytes: int,
    timeout: float,
) -> AsyncIterator[Received]:
    """Return the body, which counts in `budget` until the end of the block.

    `payload`: what the request says of its body (x-amz-content-sha256). `timeout`: seconds to wait for room. Raises
    S3Error, Overloaded, ConnectionError.
    """
    decoder = decoder_of(request, payload, signatures)
    length = length_of(request, body, decoder)
    size = max_bytes if length is None else length
    if size > max_bytes:
        raise S3Error(
            "EntityTooLarge",
            f"Your proposed upload has {size} bytes; allowed are at most {max_bytes} (MAX_VALUE_BYTES)",
        )
    await budget.take(COPIES * size, timeout)
    try:
        yield await _received(body, decoder, length, max_bytes)
    finally:
        budget.release(COPIES * size)


def decoder_of(request: S3Request, payload: str, signatures: ChunkSignatures | None) -> AwsChunked | None:
    """Return what decodes the body, None if it is sent as it is. Raises S3Error."""
    streaming = payload.startswith(STREAMING)
    if streaming and payload not in _STREAMING:
        raise S3Error(
            "InvalidArgument", f"x-amz-content-sha256: got {payload[:80]}; allowed: {', '.join(_STREAMING)}"
        )
    encodings = [each.strip().lower() for each in request.header("content-encoding").split(",")]
    if not streaming and AWS_CHUNKED not in encodings:
        return None
    return AwsChunked(signatures, signed_trailers=payload.endswith("-TRAILER"))


def length_of(request: S3Request, body: Body, decoder: AwsChunked | None) -> int | None:
    """Return the length of the decoded body in bytes; None if it is not known. Raises S3Error."""
    if decoder is None:
        return body.length
    text = request.header("x-amz-decoded-content-length")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 15:
        raise S3Error("InvalidArgument", "x-amz-decoded-content-length: allowed are whole numbers")
    return int(text)


async def _received(body: Body, decoder: AwsChunked | None, length: int | None, max_bytes: int) -> Received:
    parts: list[bytes] = []
    size = 0
    while data := await body.read():
        for part in decoder.feed(data) if decoder is not None else (data,):
            parts.append(part)
            size += len(part)
        if size > (max_bytes if length is None else length):
            if length is None:
                raise S3Error("EntityTooLarge", f"The body has more than {max_bytes} bytes (MAX_VALUE_BYTES)")
            raise S3Error("InvalidRequest", "The body is longer than its announced length")
    if (length is not None and size != length) or (decoder is not None and not decoder.complete):
        raise incomplete()
    value = parts[0] if len(parts) == 1 else b"".join(parts)
    return Received(value, decoder.trailers if decoder is not None else {})


def incomplete() -> S3Error:
    """Return the error for a body that ends before its announced length."""
    return S3Error(
        "IncompleteBody", "You did not provide the number of bytes specified by the Content-Length HTTP header"
    )
