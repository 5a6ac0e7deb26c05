"""Which spellings of an ETag are one."""

from __future__ import annotations

import pytest

from milena_cache.objects.etags import same_etag


@pytest.mark.parametrize("spelled", ['"abc"', "abc", 'W/"abc"', "W/abc"])
def test_quotes_and_weakness_are_spelling(spelled: str) -> None:
    assert same_etag(spelled, '"abc"')
    assert same_etag('"abc"', spelled)
    assert not same_etag(spelled, '"abd"')


@pytest.mark.parametrize(("one", "other"), [("", ""), ("", '""'), ('"abc"', ""), ('"a', "a"), ('"abc"', '"ABC"')])
def test_nothing_else_is(one: str, other: str) -> None:
    assert not same_etag(one, other)
