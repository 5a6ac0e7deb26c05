"""S3 away for some seconds; `python -m tests.faults.s3_down` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import s3_down
from tests.faults.harness.system import print_samples

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("hang", [False, True], ids=["refuses", "hangs"])
def test_writes_go_on_and_all_of_them_are_in_s3_afterwards(tmp_path: Path, hang: bool) -> None:
    outcome = s3_down.run(tmp_path, seconds=3, keys=400, seed=1, dirty_max="1GiB", hang=hang)
    print_samples("S3 away", outcome.samples())
    assert outcome.right
    assert outcome.load.errors == {}, "none was refused"
    assert outcome.dirty_entries > 100


def test_at_the_limit_writes_are_rejected_and_none_falsely_acknowledged(tmp_path: Path) -> None:
    outcome = s3_down.run(tmp_path, seconds=3, keys=400, seed=2, dirty_max="128KiB")
    print_samples("S3 away, and write-back full", outcome.samples())
    assert outcome.right
    assert outcome.acknowledged > 0
    assert set(outcome.load.errors) == {"OriginUnavailable"}
    assert outcome.forced > 0
    assert outcome.dirty_bytes <= outcome.limit
