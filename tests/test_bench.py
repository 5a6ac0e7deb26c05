"""The benchmark's arithmetic, and that each of its cases runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest

from bench.__main__ import CASES, main, run_case
from bench.case import Case, Figures, Target, Variant
from bench.load import with_callers, with_threads
from bench.pieces import Pieces
from bench.report import as_json, table
from bench.stub_process import ROOT
from bench.summary import percentile, summarize
from tests.support.processes import Process


def case(*targets: Target) -> Case:
    return Case("case", "two ways", "per_s", ["peer"], lambda _: nullcontext([]), targets)


ROUNDS: dict[str, list[Figures]] = {
    "own": [{"per_s": 100.0}, {"per_s": 300.0}, {"per_s": 200.0}],
    "peer": [{"per_s": 100.0}, {"per_s": 100.0}, {"per_s": 50.0}],
}


def test_ratios_are_of_the_same_round() -> None:
    own, peer = summarize(case(), ROUNDS).rows
    assert (own.medians, own.spread, own.ratios) == ({"per_s": 200.0}, 1.0, {"peer": 3.0})
    assert peer.ratios == {"peer": 1.0}


def test_targets_are_held_against_medians_and_ratios() -> None:
    targets = (
        Target("own", "per_s", at_least=200),
        Target("own", "per_s", peer="peer", at_most=2.9),
        Target("left out", "per_s", at_least=1),
    )
    result = summarize(case(*targets), ROUNDS)
    assert [(v.measured, v.met) for v in result.verdicts] == [(200.0, True), (3.0, False)]
    shown = table(result)
    assert "met: per_s of own: at least 200; measured 200" in shown
    assert "MISSED: per_s of own / peer: at most 2.9; measured 3.00" in shown
    assert json.loads(as_json({"rounds": 3}, [result]))["cases"][0]["rows"][0]["rounds"] == ROUNDS["own"]


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 3), (0.99, 4), (1.0, 4)])
def test_percentiles_are_measured_values(share: float, value: int) -> None:
    assert percentile([1, 2, 3, 4], share) == value


def test_each_round_begins_with_another_variant(tmp_path: Path) -> None:
    ran: list[str] = []

    def variant(name: str) -> Variant:
        def run() -> Figures:
            ran.append(name)
            return {"per_s": 1.0}

        return Variant(name, run)

    two = Case("case", "", "per_s", ["a"], lambda _: nullcontext([variant("a"), variant("b")]))
    run_case(two, Pieces(tmp_path, 0.01, ()), rounds=3)
    assert ran == ["a", "b", "b", "a", "a", "b"]


async def test_callers_work_at_the_same_time_and_every_call_is_counted() -> None:
    calls = together = most = 0

    async def call() -> None:
        nonlocal calls, together, most
        calls, together = calls + 1, together + 1
        most = max(most, together)
        await asyncio.sleep(0)
        together -= 1

    figures = await with_callers(call, 5, 0.02)
    assert (figures["calls"], most) == (calls, 5)


def test_an_error_in_a_thread_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        with_threads(lambda: 1 / 0, 2, 0.01)


@pytest.mark.e2e
def test_every_case_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    assert main(["--quick", "--rounds", "1", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    rows = {(c["case"], row["variant"]): row["medians"] for c in written["cases"] for row in c["rows"]}
    assert {name for name, _ in rows} == set(CASES)
    assert rows["hit_sync", "milena"]["s3_per_call"] == rows["hit_async", "milena"]["s3_per_call"] == 0
    assert rows["miss_sync_0ms", "milena"]["s3_per_call"] == rows["miss_async_0ms", "milena"]["s3_per_call"] == 1
    shown = capsys.readouterr().out
    assert [name for name in CASES if f"{name}: " not in shown] == []


@pytest.mark.e2e
def test_ctrl_c_ends_it_and_keeps_what_is_finished(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    arguments = ["-m", "bench", "--rounds", "1000000", "--case", "hit_sync", "--json", str(file)]
    with Process("bench", arguments, {"PYTHONPATH": str(ROOT)}, tmp_path) as child:
        child.wait_for_log("hit_sync: starting")
        os.kill(child.pid, signal.SIGINT)
        assert child.wait(30) == 130
    assert child.lines("Traceback") == []
    assert json.loads(file.read_text())["cases"] == []
