"""From plain connections to TLS, without a failed call; the long form is `python -m tests.faults.tls.upgrade`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import StartCluster
from tests.faults.tls.upgrade import upgrade

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(240)
def test_a_running_cluster_goes_over_to_tls(start_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = start_cluster(2)
    cluster.wait_for_ring(2)
    failures, calls = upgrade(tmp_path, cluster)
    assert failures == []
    assert calls > 100
