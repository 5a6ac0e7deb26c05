"""Clients with a near cache, and what nodes send them: messages, silence, lost connections, rejections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from milena_client import AsyncMilena, FailedPrecondition, Milena, NearCache
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.resp.encoding import bulk, push
from tests.client.blocking import Blocking
from tests.client.direct_cluster import WARM, DirectCluster
from tests.support.fake_resp_node import Argv
from tests.support.waiting import wait_until

LONG = 30.0
KEY = WARM[0]


class Harness:
    """A client with a near cache, of a cluster of two nodes."""

    def __init__(self, cluster: DirectCluster, client: Any, near: NearCache) -> None:
        self.cluster = cluster
        self.client = client
        self.near = near

    def turn(self) -> None:
        """Let an async client take in what has come."""
        self.client.exists(WARM[1])

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        def come() -> bool:
            self.turn()
            return condition()

        wait_until(what, come, LONG)

    def keep(self, key: str) -> None:
        """Read `key` until it is kept."""

        def kept() -> bool:
            before = self.near.hits
            self.client.get(key)
            return self.near.hits > before

        wait_until(f"{key} is kept", kept, LONG)

    def notify(self, *keys: bytes) -> None:
        """All nodes send that `keys` changed."""
        message = push(b"invalidate", b"*%d\r\n%b" % (len(keys), b"".join(map(bulk, keys))))
        for node in self.cluster.nodes:
            node.push(message)


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def harness(kind: str) -> Iterator[Harness]:
    near = NearCache(2**20, 10_000.0)
    with DirectCluster(2) as cluster, asyncio.Runner() as runner:
        client: Any = (
            Milena(cluster.address, near_cache=near)
            if kind == "sync"
            else Blocking(AsyncMilena(cluster.address, near_cache=near), runner)
        )
        for key in WARM:
            client.set(key, b"v")
        cluster.wait_until_direct(client)
        yield Harness(cluster, client, near)
        client.close()


def test_a_near_hit_sends_no_request(harness: Harness) -> None:
    harness.keep(KEY)
    harness.cluster.clear_requests()
    for _ in range(5):
        assert harness.client.get(KEY) == b"v"
        assert harness.client.get_many([KEY]) == {KEY: b"v"}
        assert harness.client.get(KEY, timeout=1.0) == b"v"
    assert (
        harness.cluster.sent(b"GET") == harness.cluster.sent(b"MGET") == harness.cluster.sent(b"MILENA.CALL") == 0
    )


def test_a_message_about_a_key_drops_it_and_no_other(harness: Harness) -> None:
    harness.keep(KEY)
    harness.keep(WARM[2])
    harness.notify(KEY.encode(), b"never/read")
    harness.until("it was notified", lambda: harness.near.get(KEY) is None)
    assert harness.near.get(WARM[2]) == b"v"
    for node in harness.cluster.nodes:
        node.push(push(b"invalidate", b"_\r\n"))
    harness.until("it was notified", lambda: len(harness.near) == 0)


def test_own_writes_and_deletes_drop_the_key(harness: Harness) -> None:
    harness.keep(KEY)
    harness.client.set(KEY, b"w")
    assert harness.client.get(KEY) == b"w"
    harness.keep(KEY)
    harness.client.delete(KEY)
    assert harness.client.get(KEY) is None
    harness.client.set_many({KEY: b"x"})
    harness.keep(KEY)
    harness.client.delete_many([KEY])
    assert harness.client.get_many([KEY]) == {}


def test_other_reads_speak_against_what_is_kept(harness: Harness) -> None:
    harness.keep(KEY)
    harness.cluster.reply("Put", pb.PutRequest(key=KEY.encode(), value=b"w"))
    assert harness.near.get(KEY) == b"v"  # no notification
    assert harness.client.get_entry(KEY).value == b"w"
    assert harness.near.get(KEY) is None


def test_lost_connections_empty_it_and_new_ones_fill_it(harness: Harness) -> None:
    harness.keep(KEY)
    for node in harness.cluster.nodes:
        node.disconnect()
    harness.until("it is empty", lambda: len(harness.near) == 0)
    harness.keep(KEY)


def test_a_new_ring_empties_it(harness: Harness) -> None:
    harness.keep(KEY)
    harness.cluster.give_slots(*reversed(harness.cluster.nodes))
    harness.until("it is empty", lambda: len(harness.near) == 0)
    harness.keep(KEY)


def test_a_node_that_does_not_track_is_not_called_directly(kind: str) -> None:
    near = NearCache(2**20, 10_000.0)
    with DirectCluster(1) as cluster, asyncio.Runner() as runner:

        def says(argv: Argv) -> bytes | None:
            return b"-ERR unknown command\r\n" if argv[1:2] == [b"TRACKING"] else None

        for node in cluster.nodes:
            node.says = says
        client: Any = (
            Milena(cluster.address, near_cache=near)
            if kind == "sync"
            else Blocking(AsyncMilena(cluster.address, near_cache=near), runner)
        )
        client.set(KEY, b"v")
        for _ in range(20):
            assert client.get(KEY) == b"v"
        assert cluster.sent(b"GET") == near.hits == len(near) == 0
        client.close()


def test_a_closed_client_returns_nothing(harness: Harness) -> None:
    harness.keep(KEY)
    harness.client.close()
    with pytest.raises(FailedPrecondition):
        harness.client.get(KEY)
