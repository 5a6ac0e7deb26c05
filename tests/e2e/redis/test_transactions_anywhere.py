"""Transactions of clients that are not for Redis Cluster: at any node of three, and through the router."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from redis.exceptions import RedisError, ResponseError, WatchError

from tests.e2e.conftest import StartCluster
from tests.e2e.redis.plain_clients import PROTOCOLS, SECONDS, WAYS, client
from tests.support.ports import ReservedPort
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


@WAYS
@PROTOCOLS
def test_pipelines_on_keys_of_any_node(ways: dict[str, str], way: str, protocol: int) -> None:
    with client(ways[way], protocol) as one:
        for number in range(20):
            tag = f"{{{way}{protocol}{number}}}"
            with one.pipeline() as pipeline:
                pipeline.set(f"{tag}a", 1).incr(f"{tag}a", 2).get(f"{tag}none").mget(f"{tag}a", f"{tag}b")
                pipeline.ping().lcs(f"{tag}a", f"{tag}a", idx=True).expire(f"{tag}a", 100)
                if protocol == 2:
                    matches: Any = [b"matches", [[[0, 0], [0, 0]]], b"len", 1]
                else:
                    matches = {b"matches": [[[0, 0], [0, 0]]], b"len": 1}
                assert pipeline.execute() == [True, 3, None, [b"3", None], True, matches, True]
            assert one.get(f"{tag}a") == b"3"
            with one.pipeline() as pipeline:
                pipeline.set(f"{tag}a", "x").incr(f"{tag}a").set(f"{tag}b", "y")
                returned = pipeline.execute(raise_on_error=False)
                assert [str(each) for each in returned] == [
                    "True",
                    "value is not an integer or out of range",
                    "True",
                ]
            assert one.delete(f"{tag}a", f"{tag}b") == 2


@WAYS
@PROTOCOLS
def test_a_rejected_command_and_keys_of_several_slots_leave_nothing_done(
    ways: dict[str, str], way: str, protocol: int
) -> None:
    with client(ways[way], protocol) as one:
        for number in range(10):
            key = f"rejected/{way}/{number}"
            with one.pipeline() as pipeline, pytest.raises(ResponseError, match="unknown command"):
                pipeline.set(key, 1).execute_command("NOSUCH", key).execute()
            with (
                one.pipeline() as pipeline,
                pytest.raises(ResponseError, match="Keys in request don't hash"),
            ):
                pipeline.set(key, 1).set(f"other/{key}", 1).execute()
            with one.pipeline() as pipeline, pytest.raises(ResponseError, match="key: "):
                pipeline.set(key, 1).get(b"{%b}\xff" % key.encode()).execute()
            assert one.get(key) is None


@WAYS
@PROTOCOLS
def test_watched_keys_of_any_node(ways: dict[str, str], way: str, protocol: int) -> None:
    with client(ways[way], protocol) as one, client(ways["node"], protocol) as other:
        for number in range(20):
            key = f"watched/{way}/{protocol}/{number}"
            with one.pipeline() as pipeline:
                pipeline.watch(key)
                assert pipeline.get(key) is None
                pipeline.multi()
                pipeline.set(key, 1)
                assert pipeline.execute() == [True]
            with one.pipeline() as pipeline:
                pipeline.watch(key, key)
                other.set(key, 2)
                pipeline.multi()
                pipeline.set(key, 3).ping()
                with pytest.raises(WatchError):
                    pipeline.execute()
            with one.pipeline() as pipeline:
                pipeline.watch(key)
                other.delete(key)
                pipeline.unwatch()
                pipeline.multi()
                pipeline.set(key, 4)
                assert pipeline.execute() == [True]
            assert one.get(key) == b"4"


def test_of_increments_by_watch_at_three_places_none_is_lost(ways: dict[str, str]) -> None:
    keys = [f"counter/{number}" for number in range(3)]
    failures: list[BaseException] = []

    def count(address: str) -> None:
        try:
            with client(address) as one:
                for number in range(30):
                    key = keys[number % len(keys)]

                    def add(pipeline: Any, key: str = key) -> None:
                        value = int(pipeline.get(key) or 0)
                        pipeline.multi()
                        pipeline.set(key, value + 1)

                    one.transaction(add, key)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=count, args=(address,)) for address in [*ways.values(), *ways.values()]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with client(ways["router"]) as one:
        assert one.mget(keys) == [b"40"] * 3


def test_an_owner_that_is_killed_has_done_all_of_a_transaction_or_nothing(start_cluster: StartCluster) -> None:
    with ReservedPort() as port:
        cluster = start_cluster(3, router_env={"LEASE_SECONDS": "2", "RESP_ADDR": port.address})
        cluster.wait_for_ring(3)
        acknowledged: dict[str, int] = {}
        attempted: dict[str, int] = {}
        wrong: list[str] = []
        done = threading.Event()

        def work(address: str, name: str) -> None:
            with client(address) as one:
                number = 0
                while not done.is_set():
                    number += 1
                    for slot in range(6):
                        tag = f"{{{name}{slot}}}"
                        attempted[tag] = number
                        try:
                            one.pipeline().set(f"{tag}a", number).set(f"{tag}b", number).execute()
                            acknowledged[tag] = number
                            found = one.mget(f"{tag}a", f"{tag}b")
                        except RedisError:
                            continue
                        if found != [b"%d" % number] * 2:
                            wrong.append(f"{tag}: {found}, acknowledged {number}")

        ways = {"node": cluster.nodes[0].resp, "router": port.address}
        threads = [threading.Thread(target=work, args=(address, name)) for name, address in ways.items()]
        for thread in threads:
            thread.start()
        try:
            wait_until("some were done", lambda: len(acknowledged) == 12, SECONDS)
            cluster.kill_node(cluster.nodes[2])
            cluster.wait_for_ring(2)
            before = dict(acknowledged)
            wait_until("all go on", lambda: all(acknowledged[tag] > before[tag] for tag in before), SECONDS)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        with client(cluster.nodes[1].resp) as one:
            for tag, number in acknowledged.items():
                first, second = one.mget(f"{tag}a", f"{tag}b")
                assert first == second, tag
                assert number <= int(first) <= attempted[tag], tag
