"""Clients that go straight to the nodes: which node is called, and what if it is not the owner any more."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from milena_client import (
    AsyncMilena,
    BatchError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    Milena,
    NodeLost,
    OriginUnavailable,
)
from milena_common.api.errors import InternalError
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slots import slot_of
from tests.client.blocking import Blocking
from tests.client.direct_cluster import DirectCluster
from tests.client.sync.test_node import in_a_child
from tests.support.fake_resp_node import Argv, FakeRespNode
from tests.support.ports import ReservedPort
from tests.support.waiting import wait_until

LONG = 30.0
# A key of each of three nodes.
FIRST, SECOND, THIRD = "k2", "k48", "k10"


class Harness:
    """A cluster, and how to make clients of it."""

    def __init__(self, cluster: DirectCluster, make: Callable[..., Any]) -> None:
        self.cluster = cluster
        self.nodes = cluster.nodes
        self.make = make

    def client(self, **options: Any) -> Any:
        """A client that goes straight to the nodes."""
        client = self.make(**options)
        self.cluster.wait_until_direct(client)
        return client


@pytest.fixture(params=["sync", "async"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with cluster_of(3, request.param) as harness:
        yield harness


@contextmanager
def cluster_of(number: int, kind: str, **options: Any) -> Iterator[Harness]:
    clients: list[Any] = []
    with DirectCluster(number, **options) as cluster, asyncio.Runner() as runner:

        def make(**more: Any) -> Any:
            if kind == "sync":
                clients.append(Milena(cluster.address, **more))
            else:
                clients.append(Blocking(AsyncMilena(cluster.address, **more), runner))
            return clients[-1]

        yield Harness(cluster, make)
        for client in clients:
            client.close()


@contextmanager
def full_of_connections(port: ReservedPort) -> Iterator[None]:
    """No server accepts there, and the system's queue is full: it drops the packets that would begin more."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port.number))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield


def says(reply: bytes, *names: bytes, key: bytes = b"") -> Callable[[Argv], bytes | None]:
    """A node that replies to commands with these names, about `key`, in this way."""
    return lambda argv: reply if argv[0] in names and key in argv[-1] else None


def test_only_the_owner_is_called(harness: Harness) -> None:
    client = harness.client()
    for key in (FIRST, SECOND, THIRD):
        client.set(key, b"v")
        assert client.get(key) == b"v"
        assert client.get_entry(key).value == b"v"
        assert client.exists(key)
        assert client.get(key, timeout=LONG) == b"v"
        client.delete(key)
        assert client.get(key) is None
    assert harness.cluster.requested == []
    for node, key in zip(harness.nodes, (FIRST, SECOND, THIRD), strict=True):
        assert sorted(node.commands) == [b"GET"] * 2 + [b"MILENA.CALL"] * 5
        assert all(key.encode() in argv[-1] for argv in node.received)


def test_writes_carry_a_deadline_on_the_clock_of_their_node(harness: Harness) -> None:
    for number, node in enumerate(harness.nodes):
        node.shows = 1_000_000_000 * (number + 1)
    client = harness.client(timeout=LONG)
    before = [len(node.received) for node in harness.nodes]
    client.set(FIRST, b"v")
    client.set_many({FIRST: b"1", SECOND: b"2", THIRD: b"3"})
    client.delete(THIRD)
    for number, node in enumerate(harness.nodes):
        writes = node.received[before[number] :]
        assert len(writes) == (2, 1, 2)[number]
        for _, _, _, _, deadline in writes:
            assert 0 < int(deadline) - 1_000_000_000 * (number + 1) < 10_000 * LONG


def test_plain_puts_are_sets_to_nodes_that_take_them(harness: Harness) -> None:
    for node in harness.nodes[:2]:
        node.takes_sets = True
        node.shows = 1_000_000_000
    old = harness.client()
    expected = [old.set(key, b"old", durability="memory") for key in (FIRST, SECOND, THIRD)]
    for node in harness.nodes:
        node.disconnect()
    client = harness.client(timeout=LONG)
    before = [len(node.received) for node in harness.nodes]
    assert [client.set(key, b"old", durability="memory") for key in (FIRST, SECOND, THIRD)] == expected
    client.set_many({FIRST: b"1", SECOND: b"2", THIRD: b"3"}, ttl=9.5)
    first, second, third = (node.received[number:] for node, number in zip(harness.nodes, before, strict=True))
    assert [argv[0] for argv in (*first, *second)] == [b"SET"] * 4
    assert [argv[0] for argv in third] == [b"MILENA.CALL"] * 2
    for argv in (*first, *second):
        assert 0 < int(argv[6]) - 1_000_000_000 < 10_000 * LONG
        assert 0 < int(argv[5]) <= 1000 * LONG
    assert first[0][7:] == [b"DURABILITY", b"memory"]
    assert first[1][7:] == [b"PX", b"9500"]
    assert [client.get(key) for key in (FIRST, SECOND, THIRD)] == [b"1", b"2", b"3"]
    # What a SET cannot say, or what would make it dear, and every delete, is a call of the API.
    client.set(FIRST, b"w", durability="through")
    client.set(FIRST, b"w", if_match=client.get_entry(FIRST).etag)
    client.set(FIRST, bytes(64 * 1024))
    client.delete(FIRST)
    assert [argv[0] for argv in harness.nodes[0].received[-5:]] == [b"MILENA.CALL"] * 5


def test_a_reply_to_a_set_that_is_no_receipt_is_a_defect(harness: Harness) -> None:
    harness.nodes[0].takes_sets = True
    harness.nodes[0].says = says(b"+OK\r\n", b"SET", key=b"")
    with pytest.raises(InternalError, match="receipt"):
        harness.client().set(FIRST, b"v")


def test_a_node_that_rejects_a_write_as_late_has_to_show_its_time_before_the_next(harness: Harness) -> None:
    (node, *_) = harness.nodes
    node.shows = 1_000_000
    client = harness.client()
    client.set(FIRST, b"v")
    times_shown = node.times_shown
    node.shows = 900_000_000
    late = [b"-BUSY retry-after-ms=1 the call arrived late; nothing was done\r\n"]
    node.says = lambda argv: late.pop() if late and argv[0] == b"MILENA.CALL" else None
    client.set(FIRST, b"w")
    assert (client.get(FIRST), node.times_shown - times_shown) == (b"w", 1)
    assert int([argv for argv in node.received if argv[0] == b"MILENA.CALL"][-1][4]) > 900_000_000


def test_what_is_not_about_one_key_goes_to_the_router(harness: Harness) -> None:
    client = harness.client()
    assert list(client.scan()) == []
    client.flush()
    assert harness.cluster.requested == ["List", "Flush"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_every_call_goes_through_a_router_that_gives_no_ring(kind: str) -> None:
    with cluster_of(2, kind, rejects=True) as harness:
        client = harness.make()
        client.set("k", b"v")
        assert client.get("k") == b"v"
        assert client.get_many(["k", "none"]) == {"k": b"v"}
        assert harness.cluster.requested == ["Put", "Get", "Get", "Get"]
        assert all(node.greetings == 0 for node in harness.nodes)


def test_a_client_may_be_configured_to_go_through_the_router(harness: Harness) -> None:
    client = harness.make(direct=False)
    client.set_many({FIRST: b"1", SECOND: b"2"})
    assert client.get(FIRST) == b"1"
    assert harness.cluster.requested == ["Put", "Put", "Get"]
    assert harness.cluster.watched == 0
    with Milena.from_url(f"milena://{harness.cluster.address}?direct=false") as client:
        assert client.get(FIRST) == b"1"
    assert harness.cluster.watched == 0


def test_another_bucket(harness: Harness) -> None:
    client = harness.client(bucket="logs")
    client.set("k", b"logs")
    assert client.get("k") == b"logs"
    assert client.get_many(["k"]) == {"k": b"logs"}
    owner = harness.nodes[min(2, slot_of(b"s3://logs/k") // (16384 // 3))]
    assert owner.commands == [b"MILENA.CALL", b"GET", b"MGET"]
    assert owner.received[1] == [b"GET", b"s3://logs/k"]


# ---- the ring changing


@pytest.mark.parametrize("router", [True, False])
def test_a_moved_key_is_followed_at_once(harness: Harness, router: bool) -> None:
    client = harness.client()
    if not router:
        harness.cluster.stop_router()
    moved = b"-MOVED %d %b\r\n" % (slot_of(FIRST.encode()), harness.nodes[1].address.encode())
    harness.nodes[0].says = says(moved, b"GET", b"MGET", b"MILENA.CALL")
    client.set(FIRST, b"v")
    assert harness.nodes[1].commands == [b"MILENA.CALL"]
    assert client.get(FIRST) == b"v"
    assert client.get_many([FIRST, SECOND, THIRD]) == {FIRST: b"v"}
    client.set_many({FIRST: b"w", THIRD: b"3"})
    assert client.get_entry(FIRST).value == b"w"
    assert harness.cluster.requested == []


def test_nodes_that_send_each_other_a_key_make_it_the_routers(harness: Harness) -> None:
    client = harness.client()
    for node, other in ((harness.nodes[0], harness.nodes[1]), (harness.nodes[1], harness.nodes[0])):
        node.says = says(b"-MOVED 5 %b\r\n" % other.address.encode(), b"GET", b"MGET", b"MILENA.CALL")
    client.set(FIRST, b"v")
    assert client.get(FIRST) == b"v"
    assert client.get_many([FIRST]) == {FIRST: b"v"}
    assert harness.cluster.requested == ["Put", "Get", "Get"]


def test_a_node_without_a_ring_makes_it_the_routers(harness: Harness) -> None:
    client = harness.client()
    harness.nodes[0].says = says(b"-CLUSTERDOWN no ring yet\r\n", b"GET", b"MGET", b"MILENA.CALL")
    client.set(FIRST, b"v")
    assert client.get(FIRST) == b"v"
    client.set_many({FIRST: b"w"})
    assert client.get_many([FIRST]) == {FIRST: b"w"}
    assert harness.cluster.requested == ["Put", "Get", "Put", "Get"]


def test_a_new_ring_is_followed(harness: Harness) -> None:
    client = harness.client()
    newcomer = harness.cluster.add_node()
    harness.cluster.give_slots(newcomer)
    wait_until("the newcomer is asked", lambda: (client.get(SECOND), newcomer.received)[1], LONG)
    harness.cluster.clear_requests()
    for key in (FIRST, SECOND, THIRD):
        client.set(key, b"v")
        assert client.get(key) == b"v"
    others = harness.nodes[:3]
    wait_until("others are left", lambda: (client.get("k"), not any(node.connections for node in others))[1], LONG)
    assert not any(node.received for node in others)


@pytest.mark.parametrize("read", [True, False])
def test_when_a_node_leaves_the_ring_reads_go_to_the_new_owner_and_writes_are_left_to_it(
    harness: Harness, read: bool
) -> None:
    client = harness.client()
    harness.nodes[0].defers = lambda argv: True

    def leave() -> None:
        wait_until("it is asked", lambda: harness.nodes[0].held, LONG)
        harness.cluster.give_slots(harness.nodes[1])
        if not read:
            harness.nodes[0].release()

    thread = threading.Thread(target=leave)
    thread.start()
    if read:
        assert client.get(FIRST) is None
        assert client.get(FIRST, timeout=LONG) is None
    else:
        client.set(FIRST, b"v")
    thread.join()
    assert len(harness.nodes[0].held) == (1 if read else 0)
    assert client.get(FIRST) == (None if read else b"v")


# ---- nodes and routers that are lost


def test_without_its_router_a_client_goes_on(harness: Harness) -> None:
    client = harness.client()
    harness.cluster.stop_router()
    values = {FIRST: b"1", SECOND: b"2", THIRD: b"3"}
    client.set_many(values)
    assert client.get_many(values) == values
    for key, value in values.items():
        assert client.get(key) == value
        client.set(key, value * 2)
        assert client.get_entry(key).value == value * 2
    client.delete_many(values)
    assert client.get_many(values) == {}


def test_a_read_whose_node_is_lost_is_made_again(harness: Harness) -> None:
    client = harness.client()
    client.set(FIRST, b"v")
    for get in (client.get, lambda key: client.get(key, timeout=LONG), lambda key: client.get_many([key])[key]):
        harness.nodes[0].defers = lambda argv: True

        def lose() -> None:
            wait_until("it is asked", lambda: harness.nodes[0].held, LONG)
            harness.nodes[0].defers = lambda argv: False
            harness.nodes[0].held.clear()
            harness.nodes[0].disconnect()

        thread = threading.Thread(target=lose)
        thread.start()
        assert get(FIRST) == b"v"
        thread.join()


@pytest.mark.parametrize("many", [False, True])
def test_a_write_whose_node_is_lost_is_not_made_again(harness: Harness, many: bool) -> None:
    client = harness.client()
    harness.nodes[0].defers = lambda argv: True

    def lose() -> None:
        wait_until("it is asked", lambda: harness.nodes[0].held, LONG)
        harness.nodes[0].disconnect()

    thread = threading.Thread(target=lose)
    thread.start()
    if many:
        with pytest.raises(BatchError) as failed:
            client.set_many({FIRST: b"1", SECOND: b"2"})
        assert {key: type(error) for key, error in failed.value.errors.items()} == {FIRST: NodeLost}
        assert [*failed.value.results] == [SECOND]
    else:
        with pytest.raises(NodeLost, match=f"node {harness.nodes[0].address} broke off"):
            client.set(FIRST, b"1")
    thread.join()
    assert harness.nodes[0].commands == [b"MILENA.CALL"]
    assert harness.cluster.requested == []


def test_a_write_after_the_connection_was_ended_goes_over_a_new_one(harness: Harness) -> None:
    """The node has restarted, or got tired of waiting: nothing was sent yet, so nothing can have been done."""
    client = harness.client()
    client.set(FIRST, b"1")
    harness.nodes[0].disconnect()
    wait_until("it is so", lambda: not harness.nodes[0].connections, LONG)
    if isinstance(client, Blocking):
        client.get(SECOND)  # lets the loop look
    client.set(FIRST, b"2")
    harness.nodes[0].disconnect()
    wait_until("it is so", lambda: not harness.nodes[0].connections, LONG)
    if isinstance(client, Blocking):
        client.get(SECOND)
    client.set_many({FIRST: b"3"})
    assert client.get(FIRST) == b"3"


def test_a_node_that_is_gone_is_called_through_the_router(harness: Harness) -> None:
    client = harness.client()
    harness.nodes[0].close()
    client.get(FIRST)
    for _ in range(20):
        client.set(FIRST, b"v")
        assert client.get(FIRST) == b"v"
    assert client.get_many([FIRST, SECOND]) == {FIRST: b"v"}
    assert set(harness.cluster.requested) == {"Put", "Get"}


@pytest.mark.parametrize("dropped", [False, True])
def test_nodes_that_cannot_be_reached_from_here(harness: Harness, dropped: bool) -> None:
    """Connections are refused, or, as beyond a router that translates addresses, packets are dropped."""
    with ReservedPort() as unused, ExitStack() as stack:
        if dropped:
            stack.enter_context(full_of_connections(unused))
        for node in harness.nodes:
            node.close()
            node.address = unused.address
        harness.cluster.give_slots(*harness.nodes)
        client = harness.make()
        values = {f"k{number}": b"v" for number in range(100)}
        client.set_many(values)
        assert client.get_many(values) == values
        for key in values:
            assert client.get(key) == b"v"


def test_a_node_that_comes_back_is_called_again(harness: Harness) -> None:
    client = harness.client()
    old = harness.nodes[0]
    old.close()
    client.get(FIRST)
    new = FakeRespNode(harness.cluster.reply, int(old.address.rpartition(":")[2]))
    wait_until("it is asked", lambda: (client.get(FIRST), new.received)[1], LONG)
    new.close()


@pytest.mark.parametrize("timeout", [None, 0.2])
@pytest.mark.parametrize("name", ["get", "set"])
def test_a_silent_node_does_not_make_the_caller_wait_longer(
    harness: Harness, timeout: float | None, name: str
) -> None:
    client = harness.client(timeout=0.2 if timeout is None else LONG)
    harness.nodes[0].silent = True
    with pytest.raises(DeadlineExceeded, match=rf"{name} 'k2': not finished within 0\.2 s"):
        getattr(client, name)(FIRST, *([b"v"] if name == "set" else []), timeout=timeout)


def test_a_slow_key_does_not_take_others_with_it(harness: Harness) -> None:
    client = harness.client(timeout=0.5)
    client.set_many({FIRST: b"1", SECOND: b"2", "k49": b"3"}, timeout=LONG)
    harness.nodes[0].defers = lambda argv: any(FIRST.encode() in word for word in argv)
    for call in (
        lambda: client.get_many([FIRST, "k49", SECOND]),
        lambda: client.set_many({FIRST: b"1", "k49": b"3", SECOND: b"2"}),
    ):
        with pytest.raises(BatchError) as failed:
            call()
        assert {key: type(error) for key, error in failed.value.errors.items()} == {FIRST: DeadlineExceeded}
        assert failed.value.results.keys() == {"k49", SECOND}


# ---- errors


def test_an_error_of_a_node_is_raised(harness: Harness) -> None:
    client = harness.client()
    harness.nodes[0].says = says(b"-NOPERM bucket x is not served here\r\n", b"GET", b"MILENA.CALL")
    with pytest.raises(PermissionError, match="is not served here"):
        client.get(FIRST)
    with pytest.raises(PermissionError, match="is not served here"):
        client.set(FIRST, b"v")
    assert len(harness.nodes[0].received) == 2
    assert harness.cluster.requested == []


def test_a_rate_limit_is_waited_out(harness: Harness) -> None:
    client = harness.client()
    client.set(FIRST, b"v")
    for get in (client.get, lambda key: client.get_many([key])[key], lambda key: client.get_entry(key).value):
        rejections = [b"-RATELIMIT retry-after-ms=1 slow down\r\n"] * 2
        harness.nodes[0].says = lambda argv, left=rejections: left.pop() if left else None
        assert get(FIRST) == b"v"
        assert not rejections


def test_keys_fail_by_themselves(harness: Harness) -> None:
    client = harness.client()
    client.set_many({FIRST: b"1", SECOND: b"2", "k49": b"3"})
    down = says(b"-ORIGINDOWN S3 is down\r\n", b"MILENA.CALL", key=FIRST.encode())
    harness.nodes[0].says = lambda argv: (
        b"*2\r\n-ORIGINDOWN S3 is down\r\n$1\r\n3\r\n" if argv[0] == b"MGET" else down(argv)
    )
    with pytest.raises(BatchError) as failed:
        client.get_many([FIRST, "k49", SECOND, "none"], timeout=None)
    assert {key: type(error) for key, error in failed.value.errors.items()} == {FIRST: OriginUnavailable}
    assert failed.value.results == {"k49": b"3", SECOND: b"2", "none": None}


def test_a_whole_mget_that_fails_is_repeated_key_by_key(harness: Harness) -> None:
    client = harness.client()
    client.set_many({FIRST: b"1", SECOND: b"2"})
    harness.nodes[0].says = says(b"-ORIGINDOWN S3 is down\r\n", b"MGET")
    assert client.get_many([FIRST, SECOND]) == {FIRST: b"1", SECOND: b"2"}


def test_a_key_whose_object_is_too_large_fails_alone(harness: Harness) -> None:
    client = harness.client()
    client.set_many({FIRST: b"1", "k49": b"3"})
    harness.nodes[0].says = lambda argv: (
        b"-PRECONDITION s3://bucket/k2 has 9 bytes; allowed are at most 8 (MAX_VALUE_BYTES)\r\n"
        if argv[0] == b"MGET" or FIRST.encode() in argv[-1]
        else None
    )
    with pytest.raises(BatchError) as failed:
        client.get_many([FIRST, "k49"])
    assert {key: type(error) for key, error in failed.value.errors.items()} == {FIRST: FailedPrecondition}
    assert failed.value.results == {"k49": b"3"}


def test_bad_keys_in_a_batch_fail_alone(harness: Harness) -> None:
    client = harness.client()
    client.set(FIRST, b"1")
    for bad in ("", "\ud800", "x" * 1025):
        harness.nodes[0].says = says(b"-ERR key: no\r\n", b"MGET")
        with pytest.raises(BatchError) as failed:
            client.get_many([FIRST, bad])
        assert type(failed.value.errors[bad]) is InvalidRequest
        assert failed.value.results == {FIRST: b"1"}


# ---- many


@pytest.mark.parametrize("number", [1, 100, 1000])
def test_many_keys_are_requested_from_all_owners_at_once(harness: Harness, number: int) -> None:
    client = harness.client()
    values = {f"k{each}": b"%d" % each for each in range(number)}
    client.set_many(values)
    assert harness.cluster.sent(b"MILENA.CALL") == number
    assert client.get_many([*values, "none"]) == values
    assert harness.cluster.sent(b"MGET") <= 3 * (1 + number // 128)
    client.delete_many(values)
    assert client.get_many(values) == {}
    assert harness.cluster.requested == []


def test_deferred_values_of_a_batch(harness: Harness) -> None:
    client = harness.client()
    client.set_many({FIRST: b"1", SECOND: b"2"})
    for node in harness.nodes:
        node.defers = lambda argv: True

    def release() -> None:
        wait_until("all are asked at once", lambda: all(node.held for node in harness.nodes), LONG)
        for node in harness.nodes:
            node.release()

    thread = threading.Thread(target=release)
    thread.start()
    assert client.get_many([FIRST, SECOND, THIRD]) == {FIRST: b"1", SECOND: b"2"}
    thread.join()


def test_a_time_to_live(harness: Harness) -> None:
    client = harness.client()
    client.set(FIRST, b"v", ttl=5)
    assert client.get_entry(FIRST).ttl == 5.0
    client.set_many({SECOND: b"v"}, ttl=0.25)
    assert client.get_entry(SECOND).ttl == 0.25
    client.set(FIRST, b"v")
    assert client.get_entry(FIRST).ttl is None
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="ttl"):
            client.set(FIRST, b"v", ttl=wrong)


# ---- closing, threads


def test_a_closed_client_says_so(harness: Harness) -> None:
    client = harness.client()
    client.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        client.get(FIRST)
    with pytest.raises(BatchError, match="closed"):
        client.get_many([FIRST])
    wait_until("connections are closed", lambda: not any(node.connections for node in harness.nodes), LONG)


def test_closing_ends_calls_in_progress() -> None:
    with cluster_of(1, "sync") as harness:
        client = harness.client()
        harness.nodes[0].defers = lambda argv: True
        raised: list[BaseException] = []

        def call(get: Callable[[], object]) -> None:
            try:
                get()
            except Exception as error:
                raised.append(error)

        calls = (lambda: client.get("k"), lambda: client.get_many(["k"]), lambda: client.set("k", b"v"))
        threads = [threading.Thread(target=call, args=(each,)) for each in calls]
        for thread in threads:
            thread.start()
        wait_until("all wait", lambda: len(harness.nodes[0].held) == 3, LONG)
        client.close()
        for thread in threads:
            thread.join()
        assert sorted(type(error).__name__ for error in raised) == ["BatchError", *["FailedPrecondition"] * 2]


async def test_closing_ends_async_calls_in_progress() -> None:
    with DirectCluster(1) as cluster:
        client = AsyncMilena(cluster.address)
        async with asyncio.timeout(LONG):
            while not cluster.sent(b"GET"):
                await client.get("k")
        cluster.nodes[0].defers = lambda argv: True
        calls = [asyncio.create_task(call) for call in (client.get("k"), client.set("k", b"v"))]
        await asyncio.to_thread(wait_until, "both wait", lambda: len(cluster.nodes[0].held) == 2, LONG)
        await client.close()
        for call in calls:
            with pytest.raises(FailedPrecondition, match="closed"):
                await call


async def test_closing_ends_calls_to_a_node_that_has_left() -> None:
    with DirectCluster(2) as cluster:
        client = AsyncMilena(cluster.address, timeout=LONG)
        async with asyncio.timeout(LONG):
            while not cluster.sent(b"GET"):
                await client.get(FIRST)
        cluster.nodes[0].defers = lambda argv: True
        call = asyncio.create_task(client.set(FIRST, b"v"))
        await asyncio.to_thread(wait_until, "it waits", lambda: cluster.nodes[0].held, LONG)
        cluster.give_slots(cluster.nodes[1])
        async with asyncio.timeout(LONG):
            while [b"GET", FIRST.encode()] not in cluster.nodes[1].received:
                await client.get(FIRST)
        await client.close()
        with pytest.raises(FailedPrecondition, match="closed"):
            await call
        for node in cluster.nodes:
            await asyncio.to_thread(wait_until, "it is left", lambda node=node: not node.connections, LONG)


def test_calls_of_a_batch_do_not_share_the_time_of_the_one_that_has_the_least() -> None:
    """A key that is tried again near its end is sent together with keys that have only begun."""
    with cluster_of(1, "sync") as harness:
        client = harness.client()
        transport = client._transport
        calls = [
            ("Put", pb.PutRequest(key=key, value=b"v"), seconds) for key, seconds in ((b"a", 0.05), (b"b", LONG))
        ]
        harness.nodes[0].defers = lambda argv: True

        def reply() -> None:
            wait_until("both have been asked", lambda: len(harness.nodes[0].held) == 2, LONG)
            harness.nodes[0].held = [held for held in harness.nodes[0].held if held[0].fileno() >= 0]
            harness.nodes[0].release()

        thread = threading.Thread(target=reply)
        thread.start()
        late, other = transport.call_many(calls)
        thread.join()
        assert isinstance(late, DeadlineExceeded)
        assert other.successful


def test_without_threads_left_the_router_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of the process: Python 3.12 starts no thread then."""
    start = threading.Thread.start

    def reject(thread: threading.Thread) -> None:
        if thread.name.startswith("milena"):
            raise RuntimeError("can't start new thread at interpreter shutdown")
        start(thread)

    with cluster_of(1, "sync") as harness:
        monkeypatch.setattr(threading.Thread, "start", reject)
        client = harness.make()
        client.set("k", b"v")
        monkeypatch.undo()
        connected = harness.client()
        monkeypatch.setattr(threading.Thread, "start", reject)
        harness.nodes[0].close()
        assert connected.get("k") == connected.get("k") == b"v"
        monkeypatch.undo()
        assert client.get("k") == b"v"


def test_threads_and_batches_while_the_ring_changes() -> None:
    with cluster_of(3, "sync") as harness:
        client = harness.client()
        wrong: list[object] = []
        end = threading.Event()

        def work(name: str) -> None:
            number = 0
            while not end.is_set():
                number += 1
                key, value = f"{name}/{number % 7}", f"{name}/{number}".encode()
                client.set(key, value)
                if client.get(key) != value or client.get_many([key, "none"]) != {key: value}:
                    wrong.append((key, value))

        def guarded(name: str) -> None:
            try:
                work(name)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=guarded, args=(str(number),)) for number in range(6)]
        for thread in threads:
            thread.start()
        for nodes in (harness.nodes[:1], harness.nodes, harness.nodes[1:], harness.nodes[:2]) * 3:
            requested = harness.cluster.sent(b"GET")
            harness.cluster.give_slots(*nodes)
            wait_until(
                "it goes on",
                lambda requested=requested: harness.cluster.sent(b"GET") > requested + 50 or wrong,
                LONG,
            )
        end.set()
        for thread in threads:
            thread.join()
        assert wrong == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_client_can_be_closed_in_a_process_that_was_forked() -> None:
    """Processes that inherited it have none of the threads that gRPC would wait for."""
    with cluster_of(2, "sync") as harness:
        client = harness.client()
        client.set(FIRST, b"v")

        def child() -> bool:
            client.close()
            for get in (client.get, lambda key: list(client.scan(key))):
                with pytest.raises(FailedPrecondition, match="closed"):
                    get(FIRST)
            with pytest.raises(BatchError, match="closed"):
                client.get_many([FIRST])
            return True

        assert in_a_child(child) == 0
        assert client.get(FIRST) == b"v"
        assert list(client.scan()) != []


def test_a_collected_client_leaves_nothing_behind() -> None:
    with cluster_of(2, "sync") as harness:
        before = threading.active_count()
        for _ in range(5):
            client = Milena(harness.cluster.address)
            harness.cluster.wait_until_direct(client)
            del client
            gc.collect()
        wait_until("connections are closed", lambda: not any(node.connections for node in harness.nodes), LONG)
        wait_until("threads have ended", lambda: threading.active_count() <= before + 5, LONG)
        assert not [thread for thread in threading.enumerate() if thread.name == "milena ring watch"]
