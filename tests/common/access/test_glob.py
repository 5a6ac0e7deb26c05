"""Patterns mean what they mean to Redis, and none takes long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.access.glob import MAX_BYTES, Glob
from milena_common.api.errors import InvalidRequest


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        (b"", [b""], [b"a"]),
        (b"*", [b"", b"a", b"\xff\n"], []),
        (b"abc", [b"abc"], [b"ab", b"abcd", b"xabc"]),
        (b"a?c", [b"abc", b"a\nc", b"a?c"], [b"ac", b"abbc"]),
        (b"a*c", [b"ac", b"abc", b"abcbc"], [b"acb", b"bc"]),
        (b"*a*", [b"a", b"bab"], [b"", b"b"]),
        (b"a**c", [b"ac", b"abc"], [b"a"]),
        (b"a*a", [b"aa", b"aba"], [b"a"]),
        (b"ab*bc", [b"abbc", b"abxbc"], [b"abc"]),
        (b"[abc]", [b"a", b"c"], [b"d", b"", b"ab"]),
        (b"[a-c]x", [b"ax", b"bx"], [b"dx"]),
        (b"[c-a]", [b"b"], [b"d"]),
        (b"[^a-c]", [b"d", b"\xff"], [b"a"]),
        (b"[a-]", [b"a", b"]", b"_"], [b"-"]),
        (b"[]a", [], [b"a", b"]a"]),
        (b"[^]a", [b"xa", b"]a"], [b"a"]),
        (b"[a", [b"a"], [b"[a"]),
        (b"[\\]]", [b"]"], [b"\\"]),
        (b"[\\", [b"\\"], []),
        (b"\\*", [b"*"], [b"a", b"\\*"]),
        (b"\\", [b"\\"], []),
        (b"a\\", [b"a\\"], [b"a"]),
        (b".+^$", [b".+^$"], [b"a"]),
    ],
)
def test_patterns(pattern: bytes, fits: list[bytes], fits_not: list[bytes]) -> None:
    glob = Glob(pattern)
    assert [text for text in fits if not glob.matches(text)] == []
    assert [text for text in fits_not if glob.matches(text)] == []


@pytest.mark.parametrize(
    ("pattern", "literal"),
    [
        (b"", b""),
        (b"abc", b"abc"),
        (b"ab*", b"ab"),
        (b"a?", b"a"),
        (b"a[b]", b"a"),
        (b"a\\*b*", b"a*b"),
        (b"*a", b""),
    ],
)
def test_what_every_text_begins_with(pattern: bytes, literal: bytes) -> None:
    assert Glob(pattern).literal == literal


def simply(pattern: bytes, text: bytes) -> bool:
    """Whether they fit, by trying everything; only * and ? are special."""
    if not pattern:
        return not text
    if pattern[:1] == b"*":
        return any(simply(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and pattern[:1] in (b"?", text[:1]) and simply(pattern[1:], text[1:])


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_as_if_everything_was_tried(pattern: str, text: str) -> None:
    assert Glob(pattern.encode()).matches(text.encode()) is simply(pattern.encode(), text.encode())


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_any_pattern_is_one(pattern: bytes, text: bytes) -> None:
    glob = Glob(pattern)
    assert not glob.matches(text) or text.startswith(glob.literal)


def test_many_stars_do_not_take_for_ever() -> None:
    assert not Glob(b"a*" * 2000 + b"b").matches(b"a" * 10_000)
    assert not Glob(b"*?" * 2000).matches(b"a" * 1999)


def test_a_pattern_that_is_longer_than_any_key_is_rejected() -> None:
    Glob(b"a" * MAX_BYTES)
    with pytest.raises(InvalidRequest, match="pattern: has 4097 bytes"):
        Glob(b"a" * (MAX_BYTES + 1))
