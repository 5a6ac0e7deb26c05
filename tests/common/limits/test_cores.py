"""The cores that a process may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from milena_common.limits.cores import usable_cores


@pytest.mark.parametrize("text", ["max 100000", "", "broken"])
def test_without_a_quota_all_cores_of_the_affinity_count(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path) == usable_cores(tmp_path / "nowhere") >= 1


@pytest.mark.parametrize("text", ["50000 100000", "100000 100000"])
def test_a_quota_is_rounded_up(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path) == 1
