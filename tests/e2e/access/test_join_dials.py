"""Nothing that is not allowed is dialled, whatever a join reports: forty forms, and names that change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.e2e

OWN_NETWORK = ("unshare", "--net", "--mount")


def test_forbidden_addresses_are_not_dialled(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare or ip is not installed")
    if subprocess.run([*OWN_NETWORK, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here; root can")
    program = [sys.executable, "-m", "tests.e2e.access.join_dials", str(tmp_path)]
    ran = subprocess.run(
        [*OWN_NETWORK, *program], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["forms"] >= 40
    assert found["passed"] == []
    assert found["before"] == []
    assert found["dialled"] == ["10.0.0.5"]
