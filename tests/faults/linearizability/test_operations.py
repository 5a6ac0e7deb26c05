"""The file format of histories: what is written is read, and what cannot have been recorded is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from tests.faults.linearizability.operations import (
    InvalidHistory,
    Kind,
    Operation,
    Outcome,
    by_key,
    from_json,
    read,
    to_json,
)
from tests.faults.linearizability.test_checker import random_operations


@given(random_operations())
def test_operations_are_read_as_they_were_written(operations: list[Operation]) -> None:
    lines = [f"{to_json(each)}\n" for each in operations]
    assert list(read([*lines, "\n"])) == operations
    assert dict(by_key(read(lines))) == {"k": operations}


PUT = Operation("c", "k", Kind.PUT, 1, 2, Outcome.OK, "a")


@pytest.mark.parametrize(
    "change",
    [
        {"operation": "append"},
        {"outcome": "perhaps"},
        {"responded_ns": 0},
        {"responded_ns": None},
        {"responded_ns": "soon"},
        {"value": None},
        {"operation": "delete"},
        {"expected": "b"},
        {"operation": "put_if_match"},
        {"outcome": "condition_failed"},
    ],
)
def test_a_line_that_cannot_have_been_recorded_is_rejected_with_its_number(change: dict[str, object]) -> None:
    line = to_json(PUT)
    assert from_json(line) == PUT
    with pytest.raises(InvalidHistory, match="line 2"):
        list(read([line, json.dumps({**json.loads(line), **change})]))
