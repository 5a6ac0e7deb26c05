"""Ranges and conditions."""

from __future__ import annotations

import pytest

from milena_common.api.byte_range import ByteRange
from milena_common.s3.wire.conditions import check_read, http_date, requested_range, write_condition
from milena_common.s3.wire.errors import S3Error

ETAG = '"0123456789abcdef0123456789abcdef"'
AT = 1_800_000_000.0


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-9", ByteRange(0, 10)),
        ("bytes=5-", ByteRange(5, 0)),
        ("bytes=-7", ByteRange(-7, 0)),
        ("bytes=9-5", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("lines=0-1", None),
        ("junk", None),
        ("", None),
    ],
)
def test_ranges(header: str, found: ByteRange | None) -> None:
    assert requested_range(header) == found


def test_a_suffix_of_nothing_is_not_satisfiable() -> None:
    with pytest.raises(S3Error) as error:
        requested_range("bytes=-0")
    assert error.value.code == "InvalidRange"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"if-match": ETAG}, ""),
        ({"if-match": ETAG.strip('"')}, ""),
        ({"if-match": f'"x", {ETAG}'}, ""),
        ({"if-match": "*"}, ""),
        ({"if-match": '"x"'}, "PreconditionFailed"),
        ({"if-none-match": ETAG}, "NotModified"),
        ({"if-none-match": f"W/{ETAG}"}, "NotModified"),
        ({"if-none-match": "*"}, "NotModified"),
        ({"if-none-match": '"x"'}, ""),
        ({"if-modified-since": http_date(AT)}, "NotModified"),
        ({"if-modified-since": http_date(AT - 1)}, ""),
        ({"if-modified-since": "yesterday"}, ""),
        ({"if-unmodified-since": http_date(AT)}, ""),
        ({"if-unmodified-since": http_date(AT - 1)}, "PreconditionFailed"),
        ({"if-match": ETAG, "if-unmodified-since": http_date(AT - 1)}, ""),
        ({"if-none-match": '"x"', "if-modified-since": http_date(AT)}, ""),
    ],
)
def test_conditions_of_reads(headers: dict[str, str], code: str) -> None:
    if not code:
        check_read(headers, ETAG, AT + 0.4)
        return
    with pytest.raises(S3Error) as error:
        check_read(headers, ETAG, AT + 0.4)
    assert error.value.code == code


def test_conditions_of_writes() -> None:
    assert write_condition({}) == ("", "")
    assert write_condition({"if-match": ETAG.strip('"')}) == (ETAG, "")
    assert write_condition({"if-none-match": "*"}) == ("", "*")
    for headers in ({"if-match": "*"}, {"if-none-match": ETAG}, {"if-match": ETAG, "if-none-match": "*"}):
        with pytest.raises(S3Error) as error:
            write_condition(headers)
        assert error.value.code == "InvalidArgument"
