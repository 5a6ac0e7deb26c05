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
from tests.faults.harness.scene import Scene, report
from tests.support.s3.faults import ACCESS_DENIED
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

KEYS = 50
VALUES = {f"stop/{number}": b"%d" % number for number in range(KEYS)}
# Nothing is uploaded before the stop.
LAZY = {"FLUSH_DELAY_MS": "3600000", "S3_TIMEOUT_SECONDS": "0.5", "S3_CONNECT_TIMEOUT_SECONDS": "0.5"}
STOP_SECONDS = 10.0

StartScene = Callable[..., Scene]


@pytest.fixture
def start_scene(tmp_path: Path) -> Iterator[StartScene]:
    """Starts a scene whose node uploads nothing by itself; `variables` add to its environment."""
    with ExitStack() as stack:

        def start(**variables: str) -> Scene:
            return stack.enter_context(Scene(tmp_path, {**LAZY, **variables}))

        yield start


def test_a_stop_brings_everything_to_s3_and_ends_with_0(start_scene: StartScene) -> None:
    scene = start_scene()
    with Milena(scene.address) as m:
        m.set_many(VALUES)
        m.set("stop/memory", b"m", durability="memory")
        m.delete("stop/0")
    assert scene.in_s3() == {}
    started = time.monotonic()
    scene.node.terminate()
    assert scene.node.wait() == 0
    report("SIGTERM", {"writes": KEYS + 2, "seconds": time.monotonic() - started})
    expected = {**VALUES, "stop/memory": b"m"}
    del expected["stop/0"]
    assert scene.in_s3() == expected
    scene.restart()
    assert scene.metric("milena_journal_replayed_records") == 0


def test_writes_that_come_while_a_node_stops_are_in_s3_before_they_are_acknowledged(
    start_scene: StartScene,
) -> None:
    scene = start_scene()
    history = History(f"stop/{number}" for number in range(KEYS))
    load = Load(scene.address, history, 8, 1, Mix(reads=0.0))

    async def stop_under_load() -> None:
        async with load.running():
            await asyncio.to_thread(wait_until, "writes", lambda: history.acknowledged >= 500, 30)
            scene.node.terminate()
            assert await asyncio.to_thread(scene.node.wait) == 0

    asyncio.run(stop_under_load())
    scene.compare_with_s3(history)
    report("SIGTERM under load", {"acknowledged": dict(load.reached), "verdict": history.verdict()})
    assert history.wrong == []


def test_with_s3_away_a_stop_ends_with_3_and_says_how_many_remain(start_scene: StartScene) -> None:
    scene = start_scene(DRAIN_SECONDS="1")
    with Milena(scene.address) as m:
        m.set_many(VALUES)
    scene.proxy.refuse()
    started = time.monotonic()
    scene.node.terminate()
    assert scene.node.wait() == 3
    assert time.monotonic() - started < 1 + STOP_SECONDS
    said = scene.node.wait_for_log("remain in the journal")
    assert f"{KEYS} writes are not in S3, 0 of them rejected" in said
    scene.proxy.accept()
    scene.restart({"FLUSH_DELAY_MS": "0"})
    assert scene.metric("milena_journal_replayed_records") == KEYS
    scene.wait_until_clean(30)
    assert scene.in_s3() == VALUES
    scene.node.terminate()
    assert scene.node.wait() == 0


def test_writes_of_the_class_memory_that_are_lost_are_named(start_scene: StartScene) -> None:
    scene = start_scene(DRAIN_SECONDS="1")
    with Milena(scene.address) as m:
        m.set("stop/back", b"b")
        assert m.set("stop/memory", b"m", durability="memory").durability == "memory"
        m.set("stop/both", b"kept")
        m.set("stop/both", b"lost", durability="memory")
    scene.proxy.refuse()
    scene.node.terminate()
    assert scene.node.wait() == 3
    assert "2 writes of durability memory" in scene.node.wait_for_log("of durability memory")
    scene.proxy.accept()
    scene.restart({"FLUSH_DELAY_MS": "0"})
    scene.wait_until_clean(30)
    assert scene.in_s3() == {"stop/back": b"b", "stop/both": b"kept"}


def test_what_s3_refused_remains_and_does_not_hold_up_the_stop(start_scene: StartScene) -> None:
    scene = start_scene()
    scene.proxy.inject(ACCESS_DENIED, method="PUT", key="stop/7")
    with Milena(scene.address) as m:
        m.set_many(VALUES)
    started = time.monotonic()
    scene.node.terminate()
    assert scene.node.wait() == 3
    assert time.monotonic() - started < STOP_SECONDS, "not until DRAIN_SECONDS are over"
    assert "1 writes are not in S3, 1 of them rejected" in scene.node.wait_for_log("remain in the journal")
    scene.restart()
    with Admin(scene.address) as admin, Milena(scene.address) as m:
        assert [write.key for write in admin.failed().writes] == ["stop/7"]
        assert m.get("stop/7") == VALUES["stop/7"]


def test_after_a_kill_nothing_older_is_told_while_s3_cannot_confirm_what_was_acknowledged(
    start_scene: StartScene,
) -> None:
    scene = start_scene()
    with Milena(scene.address, retry=NO_RETRY) as m:
        m.set_many(VALUES)
        scene.node.kill()
        scene.proxy.refuse()
        scene.restart()
        with pytest.raises(BatchError) as failed:
            m.get_many(VALUES)
        assert failed.value.results == {}
        assert {type(error) for error in failed.value.errors.values()} == {OriginUnavailable}
        scene.proxy.accept()
        assert m.get_many(VALUES) == VALUES


def test_a_second_node_on_the_same_journal_is_told_so_and_ends_with_2(start_scene: StartScene) -> None:
    scene = start_scene()
    with Milena(scene.address) as m:
        m.set_many(VALUES)
        second = scene.cluster.add_node({"JOURNAL_DIR": str(scene.journal)}, wait=False)
        assert second.wait() == 2
        (said,) = second.lines("JOURNAL_DIR")
        assert str(scene.journal) in said
        assert f"pid {scene.node.pid}" in said
        assert m.get_many(VALUES) == VALUES
        assert m.flush().remaining == 0
    assert scene.in_s3() == VALUES


def test_a_journal_that_cannot_be_made_ends_with_2(start_scene: StartScene) -> None:
    scene = start_scene()
    second = scene.cluster.add_node({"JOURNAL_DIR": f"{scene.node.log_file}/journal"}, wait=False)
    assert second.wait() == 2
    (said,) = second.lines("JOURNAL_DIR")
    assert "Not a directory" in said
