"""A short storm; `python -m tests.faults.ring_faults.storm` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.ring_faults.storm import run

pytestmark = pytest.mark.e2e


def test_no_value_goes_backwards_or_is_lost_while_nodes_end_stop_and_return(tmp_path: Path) -> None:
    outcome = run(tmp_path, 6.0, 5, keys=20)
    assert outcome.right, (outcome.samples(), outcome.backwards, outcome.lost)
    assert outcome.disturbed
