"""The kill loop, shortly; `python -m tests.faults.kill_loop` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import kill_loop
from tests.faults.harness.system import print_samples

pytestmark = pytest.mark.e2e


def test_no_acknowledged_write_is_lost_when_the_node_is_killed(tmp_path: Path) -> None:
    outcome = kill_loop.run(tmp_path, kills=8, seed=8, letters=200)
    print_samples("kill loop", outcome.samples())
    assert outcome.history.wrong == []
    assert outcome.letters.wrong == []
    assert outcome.conflicts == []
    assert outcome.defects == []
    assert outcome.history.acknowledged > 100
    assert outcome.replayed > 0, "every start found an empty journal: the test tests nothing"
