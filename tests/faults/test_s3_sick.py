"""A sick S3, shortly; `python -m tests.faults.s3_sick` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import s3_sick
from tests.faults.harness.system import print_samples

pytestmark = pytest.mark.e2e


def test_a_sick_s3_loses_and_corrupts_nothing_and_gets_few_more_requests(tmp_path: Path) -> None:
    outcome = s3_sick.run(tmp_path, writes=3000, seed=1)
    print_samples("S3 sick", outcome.samples())
    for run in (outcome.well, outcome.sick):
        assert run.history.wrong == []
        assert run.conflicts == 0
        assert run.defects == []
        assert 0 < run.uploads <= run.history.acknowledged
    assert sum(outcome.sick.faults.values()) > 0.2 * outcome.sick.requests.total()
    assert outcome.useful_ratio <= s3_sick.MAX_USEFUL_RATIO
