from __future__ import annotations

from typing import Any

import pytest

from milena_client.core.values import (
    MAX_TTL,
    checked_bucket,
    checked_timeout,
    encode_key,
    encode_prefix,
    encode_ttl,
    encode_value,
    key_list,
)
from milena_common.api.errors import InvalidRequest


def test_a_str_key_is_its_utf8() -> None:
    assert encode_key("grün/🦊") == "grün/🦊".encode()
    assert encode_key(b"a//b") == b"a//b"


@pytest.mark.parametrize("key", ["", b"", "x" * 1025, "ü" * 513, "a\0b", b"\xff", "\ud800"])
def test_keys_that_s3_would_reject(key: str | bytes) -> None:
    with pytest.raises(InvalidRequest, match="key"):
        encode_key(key)


@pytest.mark.parametrize("key", [1, None, bytearray(b"a"), ("a",)])
def test_other_types_are_no_keys(key: Any) -> None:
    with pytest.raises(TypeError, match="str or bytes"):
        encode_key(key)


def test_a_prefix_may_be_empty_but_not_wrong() -> None:
    assert encode_prefix("") == b""
    assert encode_prefix("a/") == b"a/"
    with pytest.raises(InvalidRequest):
        encode_prefix(b"\xff")
    with pytest.raises(InvalidRequest, match="prefix"):
        encode_prefix("\udcff")


@pytest.mark.parametrize("value", [b"ab", bytearray(b"ab"), memoryview(b"ab"), memoryview(b"xaxb")[1::2]])
def test_bytes_of_all_kinds_are_values(value: bytes | bytearray | memoryview) -> None:
    assert encode_value(value) == b"ab"


def test_text_is_no_value_and_the_message_says_what_to_do() -> None:
    text: Any = "text"
    with pytest.raises(TypeError, match=r"encode it: value\.encode\(\)"):
        encode_value(text)
    number: Any = 5
    with pytest.raises(TypeError, match="not int"):
        encode_value(number)


def test_several_keys() -> None:
    assert key_list(iter(["b", "a", "b"])) == ["b", "a"]
    for one in ("abc", b"abc"):
        with pytest.raises(TypeError, match="list"):
            key_list(one)
    numbers: Any = ["a", 1]
    with pytest.raises(TypeError, match="not int"):
        key_list(numbers)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e9])
def test_timeouts_that_are_none(seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout"):
        checked_timeout(seconds)


def test_buckets() -> None:
    assert [checked_bucket(name) for name in ("", "default", "logs.2024")] == ["", "default", "logs.2024"]
    with pytest.raises(InvalidRequest, match="bucket"):
        checked_bucket("No_Bucket")


def test_a_time_to_live_is_whole_milliseconds_and_never_none_of_them() -> None:
    assert [encode_ttl(seconds) for seconds in (None, 1, 0.25, 0.0001, MAX_TTL)] == [
        0,
        1000,
        250,
        1,
        MAX_TTL * 1000,
    ]
    for wrong in (0, -1, float("nan"), float("inf"), MAX_TTL * 1.1):
        with pytest.raises(InvalidRequest, match="ttl"):
            encode_ttl(wrong)


def test_a_value_beyond_the_limit_is_rejected_before_it_is_copied() -> None:
    for value in (b"12345", bytearray(b"12345"), memoryview(b"12345"), memoryview(bytes(8)).cast("Q")):
        with pytest.raises(InvalidRequest, match=r"value: has . bytes; allowed are at most 4 \(MAX_VALUE_BYTES\)"):
            encode_value(value, 4)
    assert encode_value(b"1234", 4) == b"1234"
