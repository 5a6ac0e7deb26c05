"""What each fault costs, in docs/consistency.md: each row has a test, and each test is there."""

from __future__ import annotations

import re

from tests.docs.documents import ROOT

HEADING = "## What each fault costs"
MIN_ROWS = 15


def rows() -> list[str]:
    text = (ROOT / "docs" / "consistency.md").read_text().partition(HEADING)[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert "What readers see" in lines[0]
    return lines[2:]


def test_each_fault_names_a_test_that_is_there() -> None:
    found = rows()
    assert len(found) >= MIN_ROWS
    for row in found:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert tests, row
        for file, name in tests:
            assert f"def {name}(" in (ROOT / file).read_text(), f"{file} has no {name}"


def test_each_fault_says_what_readers_and_writers_see_and_what_is_lost() -> None:
    for row in rows():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 5, row
        assert all(cells), row
