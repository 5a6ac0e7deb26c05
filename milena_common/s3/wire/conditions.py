"""Pure. Ranges, and the conditions of reads and writes, as HTTP's headers have them.

ETags are compared whether they are quoted or not. A header of a form that is not understood is ignored where HTTP
says so: a range or a date.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Mapping
from email.utils import formatdate, parsedate
from typing import Final

from milena_common.api.byte_range import MAX_OFFSET, ByteRange
from milena_common.s3.wire.errors import S3Error

_RANGE: Final = re.compile(r"bytes=(\d{0,64})-(\d{0,64})")
_ETAG: Final = re.compile(r'(?:W/)?"[^"]*"|[^\s,"]+')
ANY: Final = "*"


def requested_range(header: str) -> ByteRange | None:
    """Return the range of bytes that is asked for; None for the whole object, also for a header of another form.

    Raises S3Error for a suffix of no bytes.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    first, last = match.groups()
    if not first:
        if not int(last):
            raise S3Error("InvalidRange", "The requested range is not satisfiable")
        return ByteRange(-min(int(last), MAX_OFFSET), 0)
    if not last:
        return ByteRange(min(int(first), MAX_OFFSET), 0)
    if int(last) < int(first):
        return None
    start, end = min(int(first), MAX_OFFSET), min(int(last), MAX_OFFSET)
    return ByteRange(start, end - start + 1)


def unsatisfiable(size: int) -> S3Error:
    """Return the error for a range that begins behind the end of an object of `size` bytes."""
    text = "The requested range is not satisfiable"
    return S3Error("InvalidRange", text, {"Content-Range": f"bytes */{size}"})


def matches(header: str, etag: str) -> bool:
    """True if a list of ETags, or `*`, names `etag`."""
    if header.strip() == ANY:
        return True
    opaque = bare(etag)
    return bool(opaque) and any(bare(each) == opaque for each in _ETAG.findall(header))


def bare(etag: str) -> str:
    """Return an ETag without quotes and the mark of a weak one."""
    return etag.strip().removeprefix("W/").strip('"')


def quoted(etag: str) -> str:
    """Return an ETag with its quotes."""
    return etag if not etag or etag.endswith('"') else f'"{etag}"'


def check_read(headers: Mapping[str, str], etag: str, last_modified: float) -> None:
    """Raise S3Error, PreconditionFailed or NotModified, unless the conditions of a read hold for the object.

    `last_modified`: seconds since 1970. A condition on the ETag is in place of the one on the time.
    """
    if (if_match := headers.get("if-match")) is not None:
        if not matches(if_match, etag):
            raise _failed("If-Match")
    elif (text := headers.get("if-unmodified-since")) is not None:
        since = seconds_of(text)
        if since is not None and int(last_modified) > since:
            raise _failed("If-Unmodified-Since")
    if (if_none_match := headers.get("if-none-match")) is not None:
        if matches(if_none_match, etag):
            raise _not_modified(etag, last_modified)
    elif (text := headers.get("if-modified-since")) is not None:
        since = seconds_of(text)
        if since is not None and int(last_modified) <= since:
            raise _not_modified(etag, last_modified)


def write_condition(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the ETag of If-Match and the `*` of If-None-Match of a write, "" where there is none.

    Raises S3Error.
    """
    if_match, if_none_match = headers.get("if-match", "").strip(), headers.get("if-none-match", "").strip()
    if if_match and if_none_match:
        raise S3Error("InvalidArgument", "If-Match and If-None-Match are both given; allowed is one of them")
    if if_none_match and if_none_match != ANY:
        raise S3Error("InvalidArgument", "If-None-Match of a write: allowed is *")
    if if_match == ANY or "," in if_match:
        raise S3Error("InvalidArgument", "If-Match of a write: allowed is the ETag of one object")
    return quoted(if_match), if_none_match


def delete_condition(headers: Mapping[str, str]) -> str:
    """Return the ETag of If-Match of a delete, "" if there is none.

    Raises S3Error, also for conditions that S3 has in directory buckets only: ignored, more would be deleted.
    """
    for name in ("x-amz-if-match-last-modified-time", "x-amz-if-match-size"):
        if name in headers:
            raise S3Error(
                "InvalidRequest", f"{name}: is not supported here; allowed is If-Match; nothing was deleted"
            )
    return write_condition(headers)[0]


def _failed(name: str) -> S3Error:
    return S3Error("PreconditionFailed", f"At least one of the pre-conditions you specified did not hold: {name}")


def _not_modified(etag: str, last_modified: float) -> S3Error:
    return S3Error("NotModified", "", {"ETag": etag, "Last-Modified": http_date(last_modified)})


def http_date(seconds: float) -> str:
    """Return seconds since 1970 as a date of HTTP."""
    return formatdate(int(seconds), usegmt=True)


def seconds_of(date: str) -> float | None:
    """Return a date of HTTP as seconds since 1970; None if it is none."""
    parsed = parsedate(date)
    return float(timegm(parsed)) if parsed is not None else None
