"""Shell. Bodies of boto3's answers that do not tell their length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milena_cache.objects.object_store import Ref, too_large

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# A body whose length the answer does not tell is read in pieces of so many bytes.
PIECE_BYTES = 2**18


def has_body_end(response: Any) -> bool:
    """Return True if the body says where it ends: it is chunked."""
    return "chunked" in response["ResponseMetadata"]["HTTPHeaders"].get("transfer-encoding", "").lower()


def read_all(body: Any, ref: Ref, max_bytes: int) -> bytes:
    """Return a body of unknown length. Raises FailedPrecondition if it has more than `max_bytes`."""
    pieces: list[bytes] = []
    length = 0
    while piece := body.read(min(PIECE_BYTES, max_bytes + 1 - length)):
        pieces.append(piece)
        length += len(piece)
        if length > max_bytes:
            body.close()
            raise too_large(ref, length, max_bytes)
    return b"".join(pieces)


def size_by_reading(ref: Ref, client: S3Client) -> int:
    """Return the size of an object whose head does not tell it, in bytes."""
    response: Any = client.get_object(Bucket=ref.bucket, Key=ref.key)
    size = response.get("ContentLength")
    if size is not None:
        response["Body"].close()
        return int(size)
    return sum(len(piece) for piece in response["Body"].iter_chunks(PIECE_BYTES))
