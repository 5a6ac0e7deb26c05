"""The benchmark's arithmetic, and that each of its cases runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from bench.__main__ import CASES, main, run_case
from bench.against import compare, comparison_table, interval, run_against
from bench.case import Case, Samples, Skipped, Target, Variant
from bench.cores import apart
from bench.fixtures import Fixtures, Scale
from bench.machine import machine_facts
from bench.peers.redis_benchmark import redis_benchmark, samples
from bench.peers.redis_benchmark import why_not as why_no_redis_benchmark
from bench.peers.redis_server import RedisServer, why_not
from bench.peers.resp_pipeline import RespPipeline
from bench.peers.stub_process import ROOT
from bench.report import as_json, table
from bench.summary import percentile, summarize
from bench.workload.load import with_callers, with_threads
from bench.workload.new_objects import VALUE_BYTES, new_objects
from tests.support.processes import Process


def machine_cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def case(*targets: Target) -> Case:
    return Case("case", "two ways", "per_s", ["peer"], lambda _: nullcontext([]), targets)


ROUNDS: dict[str, list[Samples]] = {
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


def test_the_ratio_of_a_target_is_of_its_own_sample() -> None:
    rounds: dict[str, list[Samples]] = {
        "own": [{"per_s": 10.0, "p50_us": 190.0}],
        "peer": [{"per_s": 20.0, "p50_us": 100.0}],
    }
    [verdict] = summarize(case(Target("own", "p50_us", peer="peer", at_most=1.7)), rounds).verdicts
    assert (verdict.measured, verdict.met) == (1.9, False)


def test_a_sample_that_only_some_variants_have_is_one_column() -> None:
    rounds: dict[str, list[Samples]] = {
        "peer": [{"per_s": 1.0}],
        "own": [{"per_s": 1.0, "server_us": 2.0}],
        "other": [{"per_s": 1.0, "server_us": 3.0}],
    }
    head = table(summarize(case(), rounds)).splitlines()[1]
    assert head.split() == ["per_s", "server_us", "spread", "x", "peer"]


def test_a_peer_that_was_left_out_takes_its_ratios_and_targets_along() -> None:
    missing = Skipped("peer", "is not installed")
    targets = (Target("own", "per_s", peer="peer", at_least=2), Target("own", "per_s", at_least=200))
    result = summarize(case(*targets), {"own": ROUNDS["own"]}, [missing])
    assert (result.peers, result.rows[0].ratios, len(result.verdicts)) == ([], {}, 1)
    assert "left out: peer: is not installed" in table(result)
    assert json.loads(as_json({}, [result]))["cases"][0]["skipped"] == [{"name": "peer", "why": "is not installed"}]


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 3), (0.99, 4), (1.0, 4)])
def test_percentiles_are_measured_values(share: float, value: int) -> None:
    assert percentile([1, 2, 3, 4], share) == value


def test_each_round_begins_with_another_variant(tmp_path: Path) -> None:
    ran: list[str] = []

    def variant(name: str) -> Variant:
        def run() -> Samples:
            ran.append(name)
            return {"per_s": 1.0}

        return Variant(name, run)

    missing = Skipped("c", "cannot be had")
    offered: list[Variant | Skipped] = [variant("a"), missing, variant("b")]
    two = Case("case", "", "per_s", ["a"], lambda _: nullcontext(offered))
    result = run_case(two, Fixtures(tmp_path, Scale(0.01, (), 0, 0, 0)), rounds=3)
    assert ran == ["a", "b", "b", "a", "a", "b"]
    assert list(result.skipped) == [missing]


@pytest.mark.parametrize(
    ("number", "bounds"), [(1, (0, 0)), (5, (0, 4)), (6, (0, 5)), (9, (1, 7)), (10, (1, 8)), (20, (5, 14))]
)
def test_the_interval_of_a_median_lies_between_two_of_the_values(number: int, bounds: tuple[int, int]) -> None:
    assert interval([*reversed(range(number))]) == bounds


def test_builds_are_compared_pair_by_pair_in_what_both_measure() -> None:
    own: list[Samples] = [{"per_s": 10.0, "new": 1.0}, {"per_s": 30.0, "new": 1.0}, {"per_s": 20.0, "new": 1.0}]
    other: list[Samples] = [{"per_s": 10.0}, {"per_s": 10.0}, {"per_s": 40.0}]
    (row,) = compare("v", own, other)
    assert (row.variant, row.sample, row.own, row.other) == ("v", "per_s", 20.0, 10.0)
    assert (row.ratio, row.low, row.high) == (1.0, 0.5, 3.0)


def test_builds_alternate_in_beginning_and_peers_are_left_out(tmp_path: Path) -> None:
    ran: list[str] = []

    def run(side: str) -> Samples:
        ran.append(side)
        return {"per_s": 2.0 if side == "own" else 1.0}

    def offered(fixtures: Fixtures) -> nullcontext[list[Variant | Skipped]]:
        side = "own" if fixtures is own else "other"
        return nullcontext([Variant("milena", lambda: run(side)), Variant("redis_py", lambda: run("redis"))])

    scale = Scale(0.01, (), 0, 0, 0)
    own, other = Fixtures(tmp_path, scale), Fixtures(tmp_path, scale, tmp_path)
    comparison = run_against(Case("case", "", "per_s", [], offered), own, other, 3, lambda _: None)
    assert ran == ["other", "own", "own", "other", "other", "own"]
    assert [(row.variant, row.ratio) for row in comparison.rows] == [("milena", 2.0)]
    assert "milena" in comparison_table(comparison)
    assert json.loads(as_json({}, [], [comparison]))["comparisons"][0]["pairs"] == 3


async def test_callers_work_at_the_same_time_and_every_call_is_counted() -> None:
    calls = together = maximum = 0

    async def call() -> None:
        nonlocal calls, together, maximum
        calls, together = calls + 1, together + 1
        maximum = max(maximum, together)
        await asyncio.sleep(0)
        together -= 1

    samples_ = await with_callers(call, 5, 0.02)
    assert (samples_["calls"], maximum) == (calls, 5)


def test_an_error_in_a_thread_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        with_threads(lambda: 1 / 0, 2, 0.01)


def test_new_objects_are_new_and_of_one_size() -> None:
    new_object = new_objects("series")
    objects = [new_object() for _ in range(3)]
    assert len({key for key, _ in objects}) == len({value for _, value in objects}) == 3
    assert {len(value) for _, value in objects} == {VALUE_BYTES}


# As redis-benchmark 7.0 prints it.
CSV = """WARNING: Could not fetch server CONFIG
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"GET","74074.07","0.373","0.104","0.319","0.487","1.703","2.479"
"""


def test_what_redis_benchmark_prints_is_read() -> None:
    assert samples(CSV) == {"per_s": 74074.07, "p50_us": 319.0, "p99_us": 1703.0}


@pytest.mark.e2e
@pytest.mark.skipif(bool(why_not(client=False) or why_no_redis_benchmark()), reason="Redis is not installed")
def test_redis_benchmark_is_run(tmp_path: Path) -> None:
    with RedisServer(tmp_path, durable=False) as server:
        assert redis_benchmark(server.address, "set", number=200, keys=10, pipeline=4)["per_s"] > 0


@pytest.mark.skipif(len(machine_cores()) < 2, reason="there is one core")
def test_what_is_measured_has_a_core_to_itself(tmp_path: Path) -> None:
    cores = machine_cores()
    with Process("sleeper", ["-c", "import time; time.sleep(600)"], {}, tmp_path) as child:
        with apart([child.pid], []):
            assert os.sched_getaffinity(child.pid) == {min(cores)}
            assert os.sched_getaffinity(0) == cores - {min(cores)}
        assert os.sched_getaffinity(child.pid) == os.sched_getaffinity(0) == cores


def test_the_facts_name_the_file_system_of_the_journals(tmp_path: Path) -> None:
    assert machine_facts(tmp_path)["file system"] not in ("", "unknown")


class Sent(asyncio.Transport):
    """What a protocol writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))


async def test_the_pipeline_sends_what_was_set_in_one_round_at_once() -> None:
    pipeline, sent = RespPipeline(), Sent()
    pipeline.connection_made(sent)
    futures = [pipeline.set(b"k", value) for value in (b"v0", b"v1")]
    await asyncio.sleep(0)
    assert sent.writes == [b"".join(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nv%d\r\n" % n for n in range(2))]
    assert not any(future.done() for future in futures)


async def test_the_pipeline_gives_replies_in_their_order_however_they_are_split() -> None:
    pipeline = RespPipeline()
    pipeline.connection_made(Sent())
    first, second, third = (pipeline.set(b"k", b"v") for _ in range(3))
    pipeline.data_received(b"+O")
    assert not first.done()
    pipeline.data_received(b"K\r\n-OOM no\r\n")
    assert first.result() is None
    with pytest.raises(RuntimeError, match="OOM no"):
        second.result()
    pipeline.connection_lost(None)
    with pytest.raises(ConnectionError):
        third.result()


Medians = dict[str, dict[str, float]]


def check_journal_set(rows: Medians) -> None:
    redis = {f"redis_{client}" for client in ("py", "py_uvloop") if not why_not(client=True)}
    redis |= {"redis_pipelined"} if not why_not(client=False) else set()
    assert redis == {name for name in rows if name.startswith("redis")}
    assert rows["in_process"]["per_commit"] > 2
    assert rows["in_process_no_uploads"]["uploads_per_s"] == 0


def check_resp_benchmark(rows: Medians) -> None:
    if not (why_not(client=False) or why_no_redis_benchmark()):
        assert set(rows) == {f"{server}_{command}" for server in ("node", "redis") for command in ("get", "set")}


def _requests(number: int) -> Callable[[Medians], None]:
    def check(rows: Medians) -> None:
        assert rows["milena"]["s3_per_call"] == number

    return check


def _true(holds: Callable[[Medians], bool]) -> Callable[[Medians], None]:
    def check(rows: Medians) -> None:
        assert holds(rows)

    return check


CHECKS: dict[str, Callable[[Medians], None]] = {
    "hit_sync": _requests(0),
    "hit_async": _requests(0),
    "miss_sync_0ms": _requests(1),
    "miss_async_0ms": _requests(1),
    "journal_set": check_journal_set,
    "journal_single": _true(lambda rows: rows["in_process"]["per_commit"] == 1),
    "resp_benchmark": check_resp_benchmark,
    **{name: _requests(0) for name in ("s3_hits", "s3_boto3_1kib", "s3_boto3_8mib")},
    "reads_while_flushing": _true(lambda rows: rows["node_grpc_flushing"]["uploads_per_s"] > 0),
    "flush": _true(lambda rows: rows["milena_20ms"]["per_s"] <= 64 / 0.02),
    "replay": _true(lambda rows: rows["20000"]["beyond_key"] > 100),
}


@pytest.mark.e2e
@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", CASES)
def test_every_case_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    assert main(["--quick", "--rounds", "1", "--case", name, "--json", str(file)]) == 0
    [written] = json.loads(file.read_text())["cases"]
    assert written["case"] == name
    rows = {row["variant"]: row["medians"] for row in written["rows"]}
    assert rows
    if name in CHECKS:
        CHECKS[name](rows)
    assert f"{name}: " in capsys.readouterr().out


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
