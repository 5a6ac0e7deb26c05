"""The simulation itself: seeds without a violation, equal runs of one seed, and that it finds what is planted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from milena_cache.objects.object_store import NO_ATTRIBUTES, NO_METADATA, Ref
from tests.faults.linearizability.__main__ import main as check_files
from tests.simulation.__main__ import failure
from tests.simulation.faults import ETCD, LOSS_PAIRS, loss_pairs, plan
from tests.simulation.run import Verdict, run_seed
from tests.support.processes import ROOT
from tests.support.s3.memory_store import MemoryStore, etag_of

# A few, for a run of the tests alone: scripts/test runs 500 afterwards.
SEEDS = "0:6"
HASH_SEED = {"PYTHONHASHSEED": "0"}


def simulate(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, in which sets of texts have a fixed order."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments, "--histories", str(folder)],
        cwd=ROOT,
        env={**os.environ, **HASH_SEED},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


class ForgetfulStore(MemoryStore):
    """Confirms every fifth put without keeping the object."""

    puts = 0

    async def put(
        self,
        ref: Ref,
        value: bytes,
        *,
        if_match: str = "",
        if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
        attributes: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> str:
        self.puts += 1
        if not self.puts % 5:
            return etag_of(value)
        return await super().put(
            ref, value, if_match=if_match, if_absent=if_absent, metadata=metadata, attributes=attributes
        )


def test_no_seed_has_a_violation(tmp_path: Path) -> None:
    run = simulate("--seeds", SEEDS, folder=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_seed_gives_the_same_run_each_time() -> None:
    one, two = run_seed(7), run_seed(7)
    assert one.digest == two.digest
    assert one.operations == two.operations
    assert run_seed(8).digest != one.digest


def test_a_seed_has_enough_operations_faults_and_a_ring_change() -> None:
    result = run_seed(3)
    assert len(result.operations) >= 300
    assert len(result.plan) >= 6
    assert any(fault.kind in ("join", "leave") for fault in result.plan)


def test_a_write_that_s3_loses_is_found_and_its_history_can_be_checked_again(tmp_path: Path) -> None:
    result = run_seed(1, store=ForgetfulStore)
    assert result.verdict is Verdict.VIOLATION
    said = "\n".join(failure(result, tmp_path))
    assert "the same run: " in said
    assert "--seed 1" in said
    history = tmp_path / "seed-1.jsonl"
    assert check_files([str(history)]) == 1
    saved = history.read_text()
    assert list(failure(run_seed(1, store=ForgetfulStore), tmp_path))
    assert history.read_text() == saved


def test_one_seed_runs_the_same_in_another_process(tmp_path: Path) -> None:
    one, two = (simulate("--seed", "5", folder=tmp_path).stdout for _ in range(2))
    assert "digest" in one
    assert one == two


def test_plans_of_nodes_that_keep_copies_have_each_of_the_pairs_of_losses() -> None:
    plans = [plan(Random(seed), 2.0, lost=True) for seed in range(40)]
    named = [set(loss_pairs(each)) for each in plans]
    assert all(named)
    assert set().union(*named) == set(LOSS_PAIRS)
    assert not loss_pairs(plan(Random(1), 2.0))


def test_routers_on_one_etcd_have_one_ring_through_its_faults() -> None:
    result = run_seed(4, routers=2, copies=2)
    assert any(fault.kind in ETCD for fault in result.plan)
    assert result.verdict in (Verdict.OK, Verdict.EXPECTED_LOSS), result.reports
    assert result.copied_rings
