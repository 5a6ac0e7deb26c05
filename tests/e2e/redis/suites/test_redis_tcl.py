"""The comparison of Redis's Tcl units: what contradicts its table. `redis_tcl` runs the units."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.redis.suites import redis_py_differences, redis_tcl_differences
from tests.e2e.redis.suites.redis_tcl import contradictions


def test_what_is_not_listed_or_listed_in_vain_is_found() -> None:
    assert contradictions({"INCR", "DISCARD"}, {"INCR"}, {"DISCARD": "no lists"}) == []
    assert contradictions({"INCR"}, set(), {"INCR": "it is 3"}) == ["fails: INCR: it is 3"]
    assert contradictions({"INCR"}, set(), {}) == ["fails: INCR: it did not run"]
    assert len(contradictions({"DISCARD"}, {"DISCARD"}, {})) == 1
    assert len(contradictions(set(), set(), {"unit/expire ends": "it did not"})) == 1


def test_its_reasons_are_documented_and_few() -> None:
    document = (Path(__file__).parents[4] / "docs" / "protocol.md").read_text().replace("\n", " ")
    reasons = {*redis_tcl_differences.DIFFERENCES, *redis_py_differences.DIFFERENCES}
    assert len(reasons) <= redis_py_differences.MAX_DIFFERENCES
    for reason in reasons:
        assert reason in document
    listed = [test for tests in redis_tcl_differences.DIFFERENCES.values() for test in tests]
    assert set(redis_tcl_differences.WAITING) <= set(listed)
    assert len(listed) == len(set(listed))
