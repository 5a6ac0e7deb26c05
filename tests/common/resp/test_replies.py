"""Replies are split where they end, in whatever pieces they arrive, and stay the bytes that they were."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.resp.encoding import Error, Simple, Verbatim, encode
from milena_common.resp.replies import MAX_LINE, ReplySplitter

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=40),
    st.sampled_from([Simple("OK"), Error("ERR no"), Verbatim("a\r\ntext"), b"$5\r\n", b"\r\n"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=3), inner, max_size=3)
)


@given(st.lists(VALUES, max_size=8), st.lists(st.integers(1, 30), max_size=40), st.sampled_from([2, 3]))
def test_replies_in_any_pieces(values: list[Any], sizes: list[int], protocol: int) -> None:
    replies = [encode(value, protocol) for value in values]
    stream = b"".join(replies)
    splitter = ReplySplitter()
    found = []
    at = 0
    for size in [*sizes, len(stream)]:
        found += splitter.feed(stream[at : at + size])
        at += size
        if at >= len(stream):
            break
    assert found == replies
    assert splitter.held == 0


def test_a_large_reply_is_not_copied_with_each_of_its_pieces() -> None:
    splitter = ReplySplitter()
    assert splitter.feed(b"$1000000\r\n") == []
    for _ in range(999):
        assert splitter.feed(b"x" * 1000) == []
    assert splitter.held == 10 + 999_000
    assert splitter.feed(b"x" * 1000 + b"\r\n:1\r\n") == [b"$1000000\r\n" + b"x" * 1_000_000 + b"\r\n", b":1\r\n"]


@pytest.mark.parametrize("data", [b"hello\r\n", b"*x\r\n", b"+" + b"x" * MAX_LINE, b"$abc\r\n", b"!\r\n"])
def test_what_is_no_reply(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"reply|int"):
        ReplySplitter().feed(data)
