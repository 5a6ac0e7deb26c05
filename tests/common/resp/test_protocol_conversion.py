"""A reply of RESP3 in RESP2 is what the encoding in RESP2 gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.resp.encoding import RESP2, RESP3, Simple, Verbatim, encode
from milena_common.resp.protocol_conversion import to_resp2

ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=20),
    st.sampled_from([Simple("OK"), Verbatim("txt")]),
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.binary(max_size=5), inner, max_size=4),
        st.sets(st.binary(max_size=5), max_size=4),
    ),
    max_leaves=20,
)


@given(VALUES)
def test_the_conversion_of_a_reply_is_its_encoding_in_resp2(value: object) -> None:
    converted = to_resp2(encode(value, RESP3))
    assert converted == encode(value, RESP2)
    assert to_resp2(converted) == converted


def test_an_error_stays_one() -> None:
    assert to_resp2(b"-ERR no\r\n") == b"-ERR no\r\n"
    assert to_resp2(b"*2\r\n-ERR no\r\n_\r\n") == b"*2\r\n-ERR no\r\n$-1\r\n"
    assert to_resp2(b"!6\r\nERR no\r\n") == b"-ERR no\r\n"
    assert to_resp2(b"(123\r\n") == b"$3\r\n123\r\n"
    with pytest.raises(ValueError, match="no type"):
        to_resp2(b"?1\r\n")
