"""A node lost with its disk takes no acknowledged write along, also while S3 is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.lost_disk.__main__ import run

pytestmark = pytest.mark.e2e


def test_a_node_that_is_lost_with_its_disk_while_s3_is_away_takes_no_write_along(tmp_path: Path) -> None:
    outcome = run(tmp_path, 100)
    assert outcome.right, outcome.samples()
    assert outcome.acknowledged == 100
