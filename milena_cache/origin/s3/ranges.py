"""Pure. The headers of a request for a part of an object, and of the response.

A response is used only if it has the requested range: bytes of another range would be served in its place. Some
stores ignore a range and return 200 with the whole object; `rclone serve s3` returns 200 with the part, so that
only the `Content-Range` distinguishes the two.
"""

from __future__ import annotations

import re

from milena_common.api.byte_range import ByteRange

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


def range_header(part: ByteRange) -> str:
    """Return the `Range` of a request for `part`, whose offset is at least 0 and whose length is at least 1."""
    return f"bytes={part.offset}-{part.offset + part.length - 1}"


def whole_size(part: ByteRange, content_range: str) -> int | None:
    """Return the bytes in the whole object by the `Content-Range` of a response; None if it does not fit `part`."""
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None:
        return None
    first, last, size = map(int, match.groups())
    fits = first == part.offset < size and last == min(part.offset + part.length, size) - 1
    return size if fits else None
