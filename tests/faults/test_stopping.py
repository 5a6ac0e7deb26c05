"""How a node with dirty writes stops and starts: what it uploads, keeps and says, and its exit code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from milena_client import BatchError, Milena, OriginUnavailable
from milena_client.admin import Admin
from tests.faults.harness.history import History
from tests.faults.harness.load import NO_RETRY, Load, Mix
from tests.faults.harness.system import SystemUnderTest, print_samples
from tests.support.s3.faults import ACCESS_DENIED
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

KEYS = 50
VALUES = {f"stop/{number}": b"%d" % number for number in range(KEYS)}
# Nothing is uploaded before the stop.
LAZY = {"FLUSH_DELAY_MS": "3600000", "S3_TIMEOUT_SECONDS": "0.5", "S3_CONNECT_TIMEOUT_SECONDS": "0.5"}
STOP_SECONDS = 10.0

StartSystem = Callable[..., SystemUnderTest]


@pytest.fixture
def start_system(tmp_path: Path) -> Iterator[StartSystem]:
    """Starts a system whose node uploads nothing by itself; `variables` add to its environment."""
    with ExitStack() as stack:

        def start(**variables: str) -> SystemUnderTest:
            return stack.enter_context(SystemUnderTest(tmp_path, {**LAZY, **variables}))

        yield start


def test_a_stop_brings_everything_to_s3_and_ends_with_0(start_system: StartSystem) -> None:
    system = start_system()
    with Milena(system.address) as m:
        m.set_many(VALUES)
        m.set("stop/memory", b"m", durability="memory")
        m.delete("stop/0")
    assert system.in_s3() == {}
    started = time.monotonic()
    system.node.terminate()
    assert system.node.wait() == 0
    print_samples("SIGTERM", {"writes": KEYS + 2, "seconds": time.monotonic() - started})
    expected = {**VALUES, "stop/memory": b"m"}
    del expected["stop/0"]
    assert system.in_s3() == expected
    system.restart()
    assert system.metric("milena_journal_replayed_records") == 0


def test_writes_that_come_while_a_node_stops_are_in_s3_before_they_are_acknowledged(
    start_system: StartSystem,
) -> None:
    system = start_system()
    history = History(f"stop/{number}" for number in range(KEYS))
    load = Load(system.address, history, 8, 1, Mix(reads=0.0))

    async def stop_under_load() -> None:
        async with load.running():
            await asyncio.to_thread(wait_until, "writes", lambda: history.acknowledged >= 500, 30)
            system.node.terminate()
            assert await asyncio.to_thread(system.node.wait) == 0

    asyncio.run(stop_under_load())
    system.compare_with_s3(history)
    print_samples("SIGTERM under load", {"acknowledged": dict(load.reached), "verdict": history.verdict()})
    assert history.wrong == []


def test_with_s3_away_a_stop_ends_with_3_and_says_how_many_remain(start_system: StartSystem) -> None:
    system = start_system(DRAIN_SECONDS="1")
    with Milena(system.address) as m:
        m.set_many(VALUES)
    system.proxy.reject()
    started = time.monotonic()
    system.node.terminate()
    assert system.node.wait() == 3
    assert time.monotonic() - started < 1 + STOP_SECONDS
    said = system.node.wait_for_log("remain in the journal")
    assert f"{KEYS} writes are not in S3, 0 of them rejected" in said
    system.proxy.accept()
    system.restart({"FLUSH_DELAY_MS": "0"})
    assert system.metric("milena_journal_replayed_records") == KEYS
    system.wait_until_clean(30)
    assert system.in_s3() == VALUES
    system.node.terminate()
    assert system.node.wait() == 0


def test_writes_of_the_class_memory_that_are_lost_are_named(start_system: StartSystem) -> None:
    system = start_system(DRAIN_SECONDS="1")
    with Milena(system.address) as m:
        m.set("stop/back", b"b")
        assert m.set("stop/memory", b"m", durability="memory").durability == "memory"
        m.set("stop/both", b"kept")
        m.set("stop/both", b"lost", durability="memory")
    system.proxy.reject()
    system.node.terminate()
    assert system.node.wait() == 3
    assert "2 writes of durability memory" in system.node.wait_for_log("of durability memory")
    system.proxy.accept()
    system.restart({"FLUSH_DELAY_MS": "0"})
    system.wait_until_clean(30)
    assert system.in_s3() == {"stop/back": b"b", "stop/both": b"kept"}


def test_rejected_writes_remain_and_do_not_delay_the_stop(start_system: StartSystem) -> None:
    system = start_system()
    system.proxy.inject(ACCESS_DENIED, method="PUT", key="stop/7")
    with Milena(system.address) as m:
        m.set_many(VALUES)
    started = time.monotonic()
    system.node.terminate()
    assert system.node.wait() == 3
    assert time.monotonic() - started < STOP_SECONDS, "not until DRAIN_SECONDS are over"
    assert "1 writes are not in S3, 1 of them rejected" in system.node.wait_for_log("remain in the journal")
    system.restart()
    with Admin(system.address) as admin, Milena(system.address) as m:
        assert [write.key for write in admin.failed().writes] == ["stop/7"]
        assert m.get("stop/7") == VALUES["stop/7"]


def test_after_a_kill_nothing_older_is_returned_while_s3_cannot_confirm_what_was_acknowledged(
    start_system: StartSystem,
) -> None:
    system = start_system()
    with Milena(system.address, retry=NO_RETRY) as m:
        m.set_many(VALUES)
        system.node.kill()
        system.proxy.reject()
        system.restart()
        with pytest.raises(BatchError) as failed:
            m.get_many(VALUES)
        assert failed.value.results == {}
        assert {type(error) for error in failed.value.errors.values()} == {OriginUnavailable}
        system.proxy.accept()
        assert m.get_many(VALUES) == VALUES


def test_another_node_on_the_same_journal_logs_it_and_exits_with_2(start_system: StartSystem) -> None:
    system = start_system()
    with Milena(system.address) as m:
        m.set_many(VALUES)
        second = system.cluster.add_node({"JOURNAL_DIR": str(system.journal)}, wait=False)
        assert second.wait() == 2
        (said,) = second.lines("JOURNAL_DIR")
        assert str(system.journal) in said
        assert f"pid {system.node.pid}" in said
        assert m.get_many(VALUES) == VALUES
        assert m.flush().remaining == 0
    assert system.in_s3() == VALUES


def test_a_journal_that_cannot_be_made_ends_with_2(start_system: StartSystem) -> None:
    system = start_system()
    second = system.cluster.add_node({"JOURNAL_DIR": f"{system.node.log_file}/journal"}, wait=False)
    assert second.wait() == 2
    (said,) = second.lines("JOURNAL_DIR")
    assert "Not a directory" in said
