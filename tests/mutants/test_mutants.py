"""The planted bugs still fit the source; `python -m tests.mutants.run` plants them and runs the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.cluster_mutants import CLUSTER_BUGS
from tests.mutants.mutant import Bug
from tests.mutants.mutants import BUGS
from tests.mutants.run import ROOT, apply_mutant, copy, environment, missing_tests


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_every_mutant_can_be_applied_and_its_tests_exist(bug: Bug) -> None:
    for change in bug.changes:
        compile(apply_mutant(ROOT, change), change.file, "exec")
    assert missing_tests(ROOT, [bug]) == []


def test_there_are_enough_of_them() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 10
    assert len(CLUSTER_BUGS) >= 15


@pytest.mark.timeout(600)
@pytest.mark.parametrize("half", [0, 1])
def test_each_fault_of_leases_promises_and_moves_is_noticed_by_its_test(tmp_path: Path, half: int) -> None:
    copy(tmp_path)
    command = [sys.executable, "-B", "-m", "tests.mutants.forked", str(half), "2"]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode == 0, run.stdout + run.stderr
