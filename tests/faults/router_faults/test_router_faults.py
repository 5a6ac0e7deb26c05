"""Faults of routers and etcd, shortly; `python -m tests.faults.router_faults` is the long one.

Seconds without a successful call are printed and not asserted, since tests share their machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.router_faults import run
from tests.support.etcd_server import needs_etcd

pytestmark = [pytest.mark.e2e, needs_etcd]

FAULTS = ("a router killed", "all of etcd killed")


def test_routers_and_etcd_that_fail_cost_no_value(tmp_path: Path) -> None:
    outcome = run.run(tmp_path, 0.0, 7, FAULTS, 1)
    assert outcome.violations == []
    assert outcome.defects == []
    assert all(found.acknowledged > 20 for found in outcome.rounds)
