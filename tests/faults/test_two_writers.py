"""Another writer writes the same objects: each policy does what it says, also across a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from milena_cache.writeback.uploads.upload import POLICIES, Policy
from tests.faults import two_writers
from tests.faults.harness.system import print_samples

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("kill", [False, True], ids=["", "killed"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_conflict_ends_as_the_policy_says(tmp_path: Path, policy: Policy, kill: bool) -> None:
    outcome = two_writers.run(tmp_path, policy, kill=kill)
    print_samples(f"WRITE_CONFLICT={policy}", outcome.samples())
    assert outcome.wrong == []
