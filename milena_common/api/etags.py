"""Pure. The ETag of an object that S3 has got in one piece, by which its writer names it."""

from __future__ import annotations

from hashlib import md5


def etag_of(value: bytes) -> str:
    """Return the ETag of an object that is written to S3 in one piece, not encrypted with a KMS key."""
    return f'"{md5(value, usedforsecurity=False).hexdigest()}"'
