"""Keys and buckets: what is rejected, with which text, and that no two objects have one cache key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import (
    cache_key,
    canonical_bucket,
    check_bucket,
    check_key,
    check_value_size,
    split_cache_key,
)

buckets = st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]", fullmatch=True).filter(
    lambda name: ".." not in name and name != "default"
)
plain_keys = st.text(min_size=1, max_size=40).map(lambda text: text.encode(errors="ignore")).filter(bool)
keys = st.one_of(
    plain_keys, st.builds(lambda bucket, key: b"s3://" + bucket.encode() + b"/" + key, buckets, plain_keys)
)
objects = st.tuples(st.one_of(st.just(""), buckets), keys)


@given(objects, objects)
def test_two_objects_have_two_cache_keys(one: tuple[str, bytes], other: tuple[str, bytes]) -> None:
    assert (cache_key(*one) == cache_key(*other)) == (one == other)


@given(buckets, plain_keys)
def test_a_key_that_spells_another_buckets_object_is_not_that_object(bucket: str, key: bytes) -> None:
    spelled = cache_key(bucket, key)
    assert cache_key("", spelled) != spelled
    assert cache_key("", b"s3://default/" + spelled) != cache_key("", spelled)


@pytest.mark.parametrize(
    ("bucket", "key", "encoded"),
    [
        ("", b"a/b", b"a/b"),
        ("other", b"a/b", b"s3://other/a/b"),
        ("", b"s3://other/a/b", b"s3://default/s3://other/a/b"),
        ("", b"s3:/x", b"s3:/x"),
    ],
)
def test_cache_key_spelling(bucket: str, key: bytes, encoded: bytes) -> None:
    assert cache_key(bucket, key) == encoded
    assert split_cache_key(encoded) == (bucket, key)


@given(objects)
def test_a_cache_key_names_its_object(named: tuple[str, bytes]) -> None:
    assert split_cache_key(cache_key(*named)) == named


@pytest.mark.parametrize("key", [b"", b"/", b"//a", b"a/", b"s3://", b"s3:///", b"s3://default/s3://b/k"])
@pytest.mark.parametrize("bucket", ["", "other"])
def test_slashes_stay_with_the_key(bucket: str, key: bytes) -> None:
    assert split_cache_key(cache_key(bucket, key)) == (bucket, key)


def test_the_default_bucket_can_be_spelled_out() -> None:
    assert split_cache_key(b"s3://default/a/b") == ("", b"a/b")


@pytest.mark.parametrize(
    "key", [b"a", b"x" * 1024, b"/lead", b"trail/", b"a//b", b"..", b"%2F", b" ", b"\x01", "🙂".encode() * 256]
)
def test_every_key_that_s3_accepts_is_accepted(key: bytes) -> None:
    check_key(key)


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        (b"", "is empty"),
        (b"x" * 1025, "1025 bytes; allowed are 1 to 1024"),
        ("🙂".encode() * 257, "1028 bytes"),
        (b"ab\x00c", "NUL at byte 2"),
        (b"\x00", "NUL at byte 0"),
        (b"ab\xff", "not UTF-8 at byte 2"),
        (b"\xed\xa0\x80", "not UTF-8"),  # half of a surrogate pair
        (b"\xc0\xaf", "not UTF-8"),  # a slash, overlong
    ],
)
def test_the_error_of_a_rejected_key_states_the_rule(key: bytes, rule: str) -> None:
    with pytest.raises(InvalidRequest, match=rule) as rejected:
        check_key(key)
    assert str(rejected.value).startswith("key: ")


@given(st.binary(max_size=1100))
def test_check_key_accepts_exactly_utf8_without_nul_of_1_to_1024_bytes(key: bytes) -> None:
    try:
        key.decode()
        utf8 = True
    except UnicodeDecodeError:
        utf8 = False
    try:
        check_key(key)
        accepted = True
    except InvalidRequest:
        accepted = False
    assert accepted == (utf8 and 0 not in key and 1 <= len(key) <= 1024)


@pytest.mark.parametrize("name", ["abc", "a.b-c", "x" * 63, "1234", "192.168.1"])
def test_bucket_names_that_s3_allows(name: str) -> None:
    check_bucket(name)


@pytest.mark.parametrize(
    "name",
    ["", "ab", "x" * 64, "Upper", "under_score", "-lead", "trail-", ".lead", "trail.", "a..b", "192.168.1.1",
     "a/b", "a b", "ümlaut", "abc\n", "s3://abc"],
)  # fmt: skip
def test_the_error_of_a_rejected_bucket_states_the_rule(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^bucket: .* allowed are 3 to 63 of a-z 0-9"):
        check_bucket(name)


def test_a_long_bucket_name_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidRequest) as rejected:
        check_bucket("x" * 100_000)
    assert len(str(rejected.value)) < 400


def test_every_spelling_of_the_default_bucket_is_one() -> None:
    assert {canonical_bucket(name, "photos") for name in ("", "default", "photos")} == {""}
    assert canonical_bucket("videos", "photos") == "videos"
    assert canonical_bucket("photos", "") == "photos"


def test_the_error_of_a_value_over_the_limit_has_both_sizes() -> None:
    check_value_size(10, 10)
    with pytest.raises(InvalidRequest, match=r"^value: has 11 bytes; allowed are at most 10 \(MAX_VALUE_BYTES\)"):
        check_value_size(11, 10)
