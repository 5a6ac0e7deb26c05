"""The checker itself: it must not take wrong for right."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest

from tests.faults.harness.history import History, Kind, Write
from tests.faults.linearizability.__main__ import main as check_files
from tests.faults.linearizability.checker import Bounds


@pytest.fixture
def history() -> History:
    return History(["k", "other"])


def written(history: History, *, delete: bool = False, acknowledged: bool = True, key: str = "k") -> Write:
    write = history.begin(key, delete=delete)
    if acknowledged:
        history.acknowledge(write)
    return write


def verdict(history: History, value: bytes | None) -> str:
    """Which kind of wrong it is when a read returns `value` now; "" if it is right. Only right reads are kept."""
    after = deepcopy(history)
    after.observed("k", value, after.mark("k"))
    if after.wrong:
        (wrong,) = after.wrong
        return wrong.kind.name
    history.observed("k", value, history.mark("k"))
    return ""


def test_only_the_last_acknowledged_write_may_be_returned(history: History) -> None:
    assert verdict(history, None) == ""
    first, second = written(history), written(history)
    assert verdict(history, second.value) == ""
    assert verdict(history, first.value) == "LOST"
    assert verdict(history, None) == "LOST"
    history.observed("k", first.value, history.mark("k"))
    assert history.count(Kind.LOST) == 1


def test_a_deleted_key_must_not_come_back(history: History) -> None:
    first = written(history)
    written(history, delete=True)
    assert verdict(history, None) == ""
    assert verdict(history, first.value) == "BACK"


def test_a_write_whose_end_is_unknown_may_be_returned_or_not(history: History) -> None:
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
    history.observed("k", first.value, mark)
    history.observed("k", second.value, mark)
    assert history.wrong == []
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


def test_of_two_conditional_writes_over_one_value_one_succeeds(history: History) -> None:
    first = written(history)
    one, two = (history.begin("k", process=process, only_over=first.value) for process in ("a", "b"))
    history.acknowledge(one)
    history.condition_failed(two)
    assert history.wrong == []
    lock = history.begin("other", only_over=None)
    history.condition_failed(lock)
    (wrong,) = history.wrong
    assert (wrong.kind, wrong.key) == (Kind.ORDER, "other")


def test_writes_of_several_processes_to_one_key_are_checked_together(history: History) -> None:
    one, two = (history.begin("k", process=process) for process in ("a", "b"))
    history.acknowledge(one)
    assert verdict(history, one.value) == ""
    assert verdict(history, two.value) == ""
    assert verdict(history, one.value) == "LOST"


def test_a_write_that_was_rejected_may_not_be_returned(history: History) -> None:
    written(history)
    write = history.begin("k")
    history.rejected(write)
    assert verdict(history, write.value) == "LOST"


def test_what_exceeds_the_bounds_is_not_taken_for_right(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    written(history)
    monkeypatch.setattr(History, "bounds", Bounds(work=0))
    (wrong,) = history.wrong
    assert wrong.kind is Kind.UNDECIDED


def test_a_saved_history_is_checked_again(
    history: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = written(history), written(history)
    history.observed("k", second.value, history.mark("k"))
    history.save(tmp_path / "right")
    assert check_files([str(tmp_path / "right")]) == 0
    history.observed("k", first.value, history.mark("k"))
    history.save(tmp_path / "wrong")
    assert check_files([str(tmp_path / "right"), str(tmp_path / "wrong")]) == 1
    said = capsys.readouterr().out
    assert "2 linearizable" not in said
    assert "4 operations on 1 keys: 0 linearizable, 1 not linearizable, 0 undecided" in said
    assert history.wrong[0].report in said
    assert check_files(["--work", "1", str(tmp_path / "right")]) == 2
    (tmp_path / "no history").write_text('{"process": 1}\n')
    assert check_files([str(tmp_path / "no history")]) == 2
