"""A listing that is merged page by page has every name once, whatever is written and uploaded meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_cache.objects.object_store import Info, Page
from milena_cache.reads.merged_page import BEGINNING, Position, decode_cursor, merge, name_of
from milena_common.api.errors import InvalidRequest

KEYS = st.sampled_from(["a", "a/", "a/1", "a/2/3", "a0", "b/1", "b/2", "b//", "c", "ü/1", "ü", "😀/1", "😀"])
PREFIXES = st.sampled_from(["", "a", "a/", "b", "ü", "none"])


def info(key: str) -> Info:
    return Info(key, 1, '"e"', 0.0)


def s3_page(keys: set[str], prefix: str, delimiter: str, cursor: str, limit: int) -> Page:
    """What S3 lists: at most `limit` names behind `cursor`, which is a name here."""
    names = {name_of(key, prefix, delimiter): key for key in keys if key.startswith(prefix)}
    rest = sorted(name for name in names if name > cursor)
    page = rest[:limit]
    common = [name for name in page if delimiter and delimiter in name[len(prefix) :]]
    objects = [info(name) for name in page if name not in common]
    return Page(objects, page[-1] if len(rest) > limit else "", common)


@settings(max_examples=300)
@given(
    st.sets(KEYS), st.sets(KEYS), st.sets(KEYS), PREFIXES, st.sampled_from(["", "/"]), st.integers(1, 5),
    st.lists(st.sets(KEYS), max_size=12), st.integers(1, 8),
)  # fmt: skip
def test_every_name_is_listed_once_and_in_order(
    in_s3: set[str],
    dirty: set[str],
    deleted: set[str],
    prefix: str,
    delimiter: str,
    limit: int,
    uploads: list[set[str]],
    known: int,
) -> None:
    """`uploads`: the dirty puts that reach S3 before each next page. Deletes stay dirty.

    `known`: so many names of dirty puts are looked at for one page.
    """
    deleted = deleted - dirty
    expected_keys = (in_s3 | dirty) - deleted
    expected = {name_of(key, prefix, delimiter) for key in expected_keys if key.startswith(prefix)}
    # A common prefix whose keys are all deleted stays until S3 has the deletes.
    may_stay = {name_of(key, prefix, delimiter) for key in in_s3 & deleted if key.startswith(prefix)}
    may_stay = {name for name in may_stay if delimiter and delimiter in name[len(prefix) :]}
    in_s3, dirty = set(in_s3), set(dirty)
    found: list[str] = []
    cursor = ""
    for turn in range(200):
        position = decode_cursor(cursor)
        listed = s3_page(in_s3, prefix, delimiter, position.cursor, limit)
        hidden = frozenset(each.key for each in listed.objects if each.key in deleted)
        written: dict[str, Info | None] = {}
        for key in dirty:
            if key.startswith(prefix):
                name = name_of(key, prefix, delimiter)
                written[name] = (
                    info(key) if name == key and not (delimiter and delimiter in name[len(prefix) :]) else None
                )
        behind = sorted(name for name in written if name > position.last)
        until = behind[known - 1] if len(behind) > known else None
        written = {name: written[name] for name in behind[:known]}
        page = merge(listed, hidden, written, position, limit, until)
        names = sorted([*(each.key for each in page.objects), *page.prefixes])
        assert len(names) <= limit
        found += names
        cursor = page.cursor
        if not cursor:
            break
        if turn < len(uploads):
            in_s3 |= uploads[turn] & dirty
            dirty -= uploads[turn]
    else:
        pytest.fail("the listing does not end")
    assert found == sorted(set(found)), "in order, each once"
    assert expected <= set(found) <= expected | may_stay


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=50), st.text(max_size=50))
def test_a_cursor_comes_back_as_it_was(last: str, cursor: str) -> None:
    position = Position(cursor, last)
    assert decode_cursor(position.encode()) == position


@pytest.mark.parametrize("cursor", ["x", "ü.", "a.", "/w==.t", "x" * 9000 + "."])
def test_a_cursor_that_is_none_is_rejected_by_its_name(cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor: got"):
        decode_cursor(cursor)


def test_no_cursor_is_the_beginning() -> None:
    assert decode_cursor("") == BEGINNING
