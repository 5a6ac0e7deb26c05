"""The planted bugs still fit the source; `python -m tests.mutants.run` plants them and runs the tests."""

from __future__ import annotations

import pytest

from tests.mutants.mutants import BUGS, Bug
from tests.mutants.run import ROOT, apply_mutant, missing_tests


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_every_mutant_can_be_applied_and_its_tests_exist(bug: Bug) -> None:
    for change in bug.changes:
        compile(apply_mutant(ROOT, change), change.file, "exec")
    assert missing_tests(ROOT, [bug]) == []


def test_there_are_enough_of_them() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 10
