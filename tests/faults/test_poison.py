"""Keys that S3 rejects, shortly; `python -m tests.faults.poison` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import poison
from tests.faults.harness.system import print_samples
from tests.support.s3.faults import Reply

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("rejection", poison.REJECTIONS.values(), ids=poison.REJECTIONS)
def test_a_rejected_write_is_listed_read_kept_and_delays_no_other(tmp_path: Path, rejection: Reply) -> None:
    outcome = poison.run(tmp_path, 600, rejection)
    print_samples("poison", outcome.samples())
    assert outcome.history.wrong == []
    assert outcome.is_right(outcome.listed)
    assert outcome.is_right(outcome.listed_after_kill)
    assert {write.operation for write in outcome.listed} == {"put", "delete"}
    assert outcome.older_again == outcome.dropped == 3
    assert outcome.retried == 3
    assert outcome.listed_at_the_end == []
    assert outcome.defects == []
