"""Faults of a ring, shortly; `python -m tests.faults.ring_faults` is the long one.

Seconds without a successful call are printed and not asserted, since tests share their machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.ring_faults import run

pytestmark = pytest.mark.e2e

FAULTS = ("node paused for two leases", "partition: node and router", "partition: node and other nodes")


def test_a_ring_with_faults_stays_linearizable(tmp_path: Path) -> None:
    outcome = run.run(tmp_path, 0.0, 11, FAULTS)
    print(outcome.table())
    assert outcome.violations == []
    assert outcome.defects == []
    assert all(found.acknowledged > 20 for found in outcome.rounds)
