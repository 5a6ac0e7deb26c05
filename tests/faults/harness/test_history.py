"""The checker itself: it must not take wrong for right."""

from __future__ import annotations

import pytest

from tests.faults.harness.history import History, Kind, Write


@pytest.fixture
def history() -> History:
    return History(["k", "other"])


def written(history: History, *, delete: bool = False, acknowledged: bool = True, key: str = "k") -> Write:
    write = history.begin(key, delete=delete)
    if acknowledged:
        history.acknowledge(write)
    return write


def verdict(history: History, value: bytes | None) -> str:
    """Which kind of wrong it is when a read returns `value` now; "" if it is right."""
    if history.observed("k", value, history.mark("k")):
        return ""
    return history.wrong[-1].kind.name


def test_only_the_last_acknowledged_write_may_be_returned(history: History) -> None:
    assert verdict(history, None) == ""
    first, second = written(history), written(history)
    assert verdict(history, second.value) == ""
    assert verdict(history, first.value) == "LOST"
    assert verdict(history, None) == "LOST"
    assert history.count(Kind.LOST) == 2


def test_a_deleted_key_must_not_come_back(history: History) -> None:
    first = written(history)
    written(history, delete=True)
    assert verdict(history, None) == ""
    assert verdict(history, first.value) == "BACK"


def test_a_write_of_unknown_outcome_may_be_returned_or_not(history: History) -> None:
    first = written(history)
    second = written(history, acknowledged=False)
    assert verdict(history, first.value) == ""
    assert verdict(history, second.value) == ""


def test_a_value_that_was_returned_stays(history: History) -> None:
    first = written(history)
    second = written(history, acknowledged=False)
    third = written(history, acknowledged=False)
    assert verdict(history, second.value) == ""
    assert verdict(history, first.value) == "LOST"
    assert verdict(history, third.value) == ""
    assert verdict(history, second.value) == "LOST"


def test_after_an_acknowledgement_an_earlier_attempt_may_not_come_late(history: History) -> None:
    lost = written(history, acknowledged=False)
    written(history)
    assert verdict(history, lost.value) == "LOST"


def test_a_read_may_return_what_was_there_while_it_was_in_flight(history: History) -> None:
    first = written(history)
    mark = history.mark("k")
    second = written(history)
    assert history.observed("k", first.value, mark)
    assert history.observed("k", second.value, mark)
    assert verdict(history, first.value) == "LOST"


@pytest.mark.parametrize("change", [lambda v: v[:-1], lambda v: v[:-1] + b"?", lambda v: b"", lambda v: v + v])
def test_a_value_that_was_changed_is_known(history: History, change: object) -> None:
    write = written(history)
    assert callable(change)
    assert verdict(history, change(write.value)) == "INVENTED"


def test_a_value_of_another_key_or_of_a_write_that_never_was_is_known(history: History) -> None:
    written(history)
    assert verdict(history, written(history, key="other").value) == "INVENTED"
    assert verdict(history, history.value("k", 7)) == "INVENTED"
    delete = written(history, delete=True)
    assert verdict(history, history.value("k", delete.number)) == "INVENTED"
