"""Shell. Reads bodies of boto3's responses without a Content-Length.

Some stores and proxies send chunked bodies, or end a body by closing the connection. The bound on a value's size is
enforced while reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milena_cache.objects.object_store import Ref, too_large

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# The size in bytes of the pieces in which a body of unknown length is read.
PIECE_BYTES = 2**18


def has_body_end(response: Any) -> bool:
    """True if the body marks its own end: it is chunked."""
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
    """Return the size in bytes of an object whose headers do not have it."""
    response: Any = client.get_object(Bucket=ref.bucket, Key=ref.key)
    size = response.get("ContentLength")
    if size is not None:
        response["Body"].close()
        return int(size)
    return sum(len(piece) for piece in response["Body"].iter_chunks(PIECE_BYTES))
