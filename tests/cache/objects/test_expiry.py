"""An object's own end: what the metadata says, and what requests may ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.objects.expiry import (
    EXPIRES,
    MAX_TTL_MS,
    NEVER,
    expires_after,
    expires_metadata,
    expiry_of,
    is_expired,
    remaining_ms,
    to_the_millisecond,
)
from milena_cache.objects.object_store import Ref
from milena_cache.objects.version import Version, stamp
from milena_common.api.errors import InvalidRequest

REF = Ref("bucket", "k")
STAMP = stamp(Version(5, 7), REF)
NOW = 1_700_000_000.0


@given(st.floats(NOW - 10**9, NOW + 10**10))
def test_the_end_is_the_same_everywhere(timestamp: float) -> None:
    end = to_the_millisecond(timestamp)
    assert abs(end - timestamp) <= 0.000501
    assert expiry_of({**STAMP, **expires_metadata(end)}, REF) == end
    assert to_the_millisecond(end) == end


def test_what_does_not_end_says_nothing_of_it() -> None:
    assert expires_metadata(NEVER) == {}
    assert expiry_of(STAMP, REF) is NEVER
    assert not is_expired(NEVER, NOW)
    assert remaining_ms(NEVER, NOW) == 0


@pytest.mark.parametrize(
    "text", ["", "0", "soon", "-1", "1.5", " 1", "1e9", "٣", "inf", "9" * 16, "0x10", "1700000000000\n"]
)
def test_what_is_no_number_of_milliseconds_is_no_end(text: str) -> None:
    assert expiry_of({**STAMP, EXPIRES: text}, REF) is NEVER


def test_a_copy_does_not_end_with_its_original() -> None:
    copied = {**STAMP, **expires_metadata(NOW)}
    assert expiry_of(copied, REF) == NOW
    assert expiry_of(copied, Ref("bucket", "another")) is NEVER
    assert expiry_of({EXPIRES: "1"}, REF) is NEVER, "nor does a foreign value"


def test_the_expiry_is_the_first_timestamp_at_which_it_is_gone() -> None:
    assert not is_expired(NOW, NOW - 0.001)
    assert is_expired(NOW, NOW)


def test_the_time_that_remains() -> None:
    end = expires_after(1500, NOW)
    assert end == NOW + 1.5
    assert remaining_ms(end, NOW) == 1500
    assert remaining_ms(end, NOW + 1.4999) == 1, "it still is there"
    assert expires_after(0, NOW) is NEVER


def test_a_lifetime_over_ten_years_is_rejected() -> None:
    assert remaining_ms(expires_after(MAX_TTL_MS, NOW), NOW) == MAX_TTL_MS
    with pytest.raises(InvalidRequest, match=rf"ttl_ms: got {MAX_TTL_MS + 1}; allowed: 0 .* to {MAX_TTL_MS}"):
        expires_after(MAX_TTL_MS + 1, NOW)
