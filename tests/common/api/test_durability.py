"""What is said about a write: its durability class and its condition."""

from __future__ import annotations

import pytest

from milena_common.api.durability import DURABILITIES, MAX_ETAG, check_condition, check_durability
from milena_common.api.errors import InvalidRequest


def test_the_classes_are_these() -> None:
    assert [check_durability(name) for name in ("back", "through", "memory")] == [*DURABILITIES]
    assert check_durability("") is None


@pytest.mark.parametrize("text", ["Back", "back ", "none", "\0", "x" * 10_000])
def test_any_other_class_raises_an_error_with_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^durability: .*allowed: back, through, memory$") as rejected:
        check_durability(text)
    assert len(str(rejected.value)) < 200


@pytest.mark.parametrize(
    ("if_match", "if_none_match"), [("", ""), ('"e"', ""), ('W/"e"', ""), ("no-quotes", ""), ("", "*")]
)
def test_one_condition_or_none(if_match: str, if_none_match: str) -> None:
    check_condition(if_match, if_none_match)


def test_two_conditions_are_rejected() -> None:
    with pytest.raises(InvalidRequest, match=r"^if_match, if_none_match: both"):
        check_condition('"e"', "*")


@pytest.mark.parametrize("etag", ['"e"', "**", " "])
def test_only_a_star_is_no_match(etag: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^if_none_match: .*allowed: \*"):
        check_condition("", etag)


@pytest.mark.parametrize("etag", ["*", '"e"\r\nx-amz-acl: public-read', '"ü"', "\ud800", "x" * (MAX_ETAG + 1)])
def test_what_can_be_no_etag_reaches_no_header(etag: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^if_match: .*allowed: the ETag") as rejected:
        check_condition(etag, "")
    str(rejected.value).encode()
