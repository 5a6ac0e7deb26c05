"""Pure. Multipart uploads as S3 has them, what is listed of them, and the limits of uploads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

# S3's limit.
MAX_PARTS: Final = 10_000
# Bytes of one step in which a caller sends an object.
MAX_STEP_BYTES: Final = 2**20


class UploadedPart(NamedTuple):
    """A part of an upload.

    number: from 1 to MAX_PARTS, in the order of the object
    etag: with its quotes
    size: in bytes
    last_modified: seconds since 1970
    """

    number: int
    etag: str
    size: int = 0
    last_modified: float = 0.0


class PartsPage(NamedTuple):
    """Parts of an upload in their order. `truncated`: others follow."""

    parts: Sequence[UploadedPart]
    truncated: bool


class Upload(NamedTuple):
    """An upload that is neither completed nor aborted. `initiated`: seconds since 1970."""

    key: str
    upload: str
    initiated: float


class UploadsPage(NamedTuple):
    """Uploads in the order of their keys, and where the next page begins: "" after the last.

    prefixes: the common prefixes of a listing with a delimiter
    """

    uploads: Sequence[Upload]
    prefixes: Sequence[str]
    next_key: str
    next_upload: str

    def without_prefix(self, prefix: str) -> UploadsPage:
        """Return this page with `prefix` removed from every key and common prefix."""
        return UploadsPage(
            [each._replace(key=each.key.removeprefix(prefix)) for each in self.uploads],
            [each.removeprefix(prefix) for each in self.prefixes],
            self.next_key.removeprefix(prefix),
            self.next_upload,
        )
