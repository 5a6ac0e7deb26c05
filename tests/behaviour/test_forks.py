"""Clients in the processes of a program that forks, spawns, or has a fork server."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from milena_client import AsyncMilena, FailedPrecondition, Milena, NearCache, NodeUnreachable, cached
from milena_client.testing import FakeMilena
from tests.client.direct_cluster import DirectCluster
from tests.client.sync.test_direct import FIRST, SECOND, THIRD, cluster_of
from tests.support.waiting import wait_until

LONG = 30.0
KEYS = (FIRST, SECOND, THIRD)
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")


def in_a_child(body: Callable[[], object], seconds: int = 20) -> int:
    """Fork, run `body` there, and give the exit status: 0 if it returned something true, -14 if it hung."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            status = 0 if body() else 2
        except BaseException as error:
            print(f"in the child: {error!r}", file=sys.stderr)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def cluster() -> Iterator[DirectCluster]:
    with DirectCluster(3) as cluster:
        yield cluster


def read(client: Any, keys: tuple[str, ...]) -> list[bytes | None]:
    return [client.get(key) for key in keys]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_client_that_was_pickled_works_in_a_worker(cluster: DirectCluster, method: str) -> None:
    client = Milena(cluster.address)
    client.set_many({key: key.encode() for key in KEYS})
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read, (client, KEYS)) == [key.encode() for key in KEYS]
    client.close()


async def _read(client: AsyncMilena) -> list[bytes | None]:
    async with client:
        return [await client.get(key) for key in KEYS]


def read_async(client: AsyncMilena) -> list[bytes | None]:
    return asyncio.run(_read(client))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_async_client_that_was_pickled_works_in_a_worker(cluster: DirectCluster, method: str) -> None:
    with Milena(cluster.address) as client:
        client.set_many({key: key.encode() for key in KEYS})
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read_async, (AsyncMilena(cluster.address),)) == [key.encode() for key in KEYS]


def test_a_forked_process_reads_and_writes_without_the_router() -> None:
    with cluster_of(3, "sync") as harness:
        client = harness.client()
        client.set_many({key: b"before" for key in KEYS})
        harness.cluster.clear_requests()

        def child() -> bool:
            assert read(client, KEYS) == [b"before"] * 3
            assert client.get_many(KEYS) == dict.fromkeys(KEYS, b"before")
            client.set(FIRST, b"one")
            client.set_many({SECOND: b"two", THIRD: b"three"})
            client.delete(FIRST)
            assert {found.key for found in client.scan()} == {SECOND, THIRD}
            return read(client, KEYS) == [None, b"two", b"three"]

        assert in_a_child(child) == 0
        assert harness.cluster.requested == []
        assert read(client, KEYS) == [None, b"two", b"three"], "the parent's connections are as they were"


def test_a_forked_process_reports_why_it_cannot_call_the_router() -> None:
    with cluster_of(3, "sync") as harness:
        client = harness.client()

        def child() -> bool:
            for call in (client.flush, lambda: Milena("127.0.0.1:1").get("k")):
                with pytest.raises(FailedPrecondition, match=r"forked .* spawn or forkserver"):
                    call()
            return True

        assert in_a_child(child) == 0


def test_a_forked_process_finds_keys_whose_owner_is_gone_through_the_other_nodes() -> None:
    with cluster_of(3, "sync") as harness:
        client = harness.client()
        client.set_many({key: b"v" for key in KEYS})
        gone, other, owner = harness.nodes
        moved = f"-MOVED 1 {owner.address}\r\n".encode()
        gone.close()
        other.says = lambda argv: moved if argv[0] == b"MILENA.CALL" and FIRST.encode() in argv[3] else None
        assert in_a_child(lambda: client.get(FIRST) == b"v" and client.get_many([FIRST]) == {FIRST: b"v"}) == 0


def test_a_forked_process_that_reaches_no_node_says_so_in_its_time() -> None:
    with cluster_of(3, "sync") as harness:
        client = harness.client(timeout=0.5)
        for node in harness.nodes:
            node.close()

        def child() -> bool:
            with pytest.raises(NodeUnreachable, match="known when this process was forked"):
                client.get(FIRST)
            return True

        assert in_a_child(child) == 0


def test_a_fork_closes_the_sockets_of_the_parent_in_the_child_and_nowhere_else() -> None:
    with cluster_of(3, "sync") as harness:
        client = harness.client(near_cache=NearCache(2**20, 60.0))
        client.set(FIRST, b"v")
        wait_until("there is a connection", lambda: client.get(FIRST) == b"v", LONG)
        ours = {node.address for node in harness.nodes}

        def child() -> bool:
            return not [peer for peer in peers() if peer in ours]

        assert [peer for peer in peers() if peer in ours]
        assert in_a_child(child) == 0
        before = sum(node.greetings for node in harness.nodes)
        assert read(client, KEYS * 5)[0] == b"v"
        assert sum(node.greetings for node in harness.nodes) == before, "no connection had to be made again"


def peers() -> list[str]:
    """The other ends, as host:port, of the sockets that this process holds as a client."""
    found = []
    table = {}
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        table[fields[9]] = f"127.0.0.1:{int(fields[2].rpartition(':')[2], 16)}"
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith("socket:["):
            found.append(table.get(target[8:-1], ""))
    return found


def test_a_fork_while_other_threads_hold_every_lock_leaves_the_child_working() -> None:
    with cluster_of(3, "sync") as harness:
        client = harness.client(near_cache=NearCache(2**20, 60.0))
        client.set(FIRST, b"v")
        direct = client._direct
        locks = [
            direct._updating,
            direct._watch._starting,
            direct._router._connecting,
            client.options.near_cache._lock,
            *(node._lock for node in direct._routes.all_ways()),
        ]
        for lock in locks:
            lock.acquire()
        try:

            def child() -> bool:
                assert client.get(FIRST) == b"v"
                client.close()
                return True

            status = in_a_child(child)
        finally:
            for lock in locks:
                lock.release()
        assert status == 0


def test_a_client_that_was_not_used_before_the_fork_works_wholly_in_the_child() -> None:
    """It must be seen in a process of its own: in this one other tests have used gRPC."""
    with DirectCluster(2) as cluster:
        with Milena(cluster.address) as client:
            client.set(FIRST, b"v")
        ran = run(
            f"""
            client = Milena({cluster.address!r})
            def child():
                assert client.get({FIRST!r}) == b"v"
                assert [found.key for found in client.scan()] == [{FIRST!r}]
                client.close()
                return True
            assert in_a_child(child) == 0
            assert client.get({FIRST!r}) == b"v"
            """
        )
        assert ran == (0, ""), ran[1]


def test_gone_clients_and_the_end_of_the_interpreter_touch_no_grpc_in_a_child() -> None:
    with DirectCluster(2) as cluster:
        with Milena(cluster.address) as client:
            client.set(FIRST, b"v")
        ran = run(
            f"""
            import gc, threading
            from tests.support.waiting import wait_until
            client = Milena({cluster.address!r})
            assert client.get({FIRST!r}) == b"v"
            wait_until("the ring is known", lambda: client._direct._watch.current.epoch, 30)
            end = threading.Event()
            def work():
                while not end.is_set():
                    client.get({FIRST!r}, timeout=5)
                    client.exists({FIRST!r})
                    [*client.scan()]
            threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
            for thread in threads:
                thread.start()
            for _ in range(8):
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                    assert client.get({FIRST!r}) == b"v"
                    del client
                    gc.collect()
                    sys.exit(0)
                assert os.waitpid(child, 0)[1] == 0
            end.set()
            for thread in threads:
                thread.join()
            client.close()
            """
        )
        assert ran == (0, ""), ran[1]


def test_grpc_keeps_out_of_forks_unless_the_environment_says_otherwise() -> None:
    shown = "import milena_client; print(os.environ['GRPC_ENABLE_FORK_SUPPORT'])"
    assert run(shown)[1] == "false\n"
    assert run(shown, GRPC_ENABLE_FORK_SUPPORT="1")[1] == "1\n"


def run(program: str, **environment: str) -> tuple[int, str]:
    """Run `program` in a new process; its exit status and what it printed."""
    head = "import os, signal, sys\nfrom milena_client import Milena\n"
    if "in_a_child" in program:
        head += "from tests.behaviour.test_forks import in_a_child\n"
    kept = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", head + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=100,
        env=kept | environment,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_a_result_that_a_thread_of_the_parent_computes_is_computed_by_the_child_itself() -> None:
    began, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    @cached(FakeMilena(), key="result")
    def compute() -> bytes:
        calls.append(os.getpid())
        if len(calls) == 1:
            began.set()
            go_on.wait(LONG)
        return b"computed"

    thread = threading.Thread(target=compute)
    thread.start()
    assert began.wait(LONG)
    try:
        assert in_a_child(lambda: compute() == b"computed") == 0
    finally:
        go_on.set()
        thread.join()


async def use_everything(client: AsyncMilena) -> bool:
    async with client:
        assert await client.get_many(KEYS) == dict.fromkeys(KEYS, b"before")
        await client.set(FIRST, b"one")
        await client.delete(SECOND)
        assert {found.key async for found in client.scan()} == {FIRST, THIRD}
        return [await client.get(key) for key in KEYS] == [b"one", None, b"before"]


@pytest.mark.parametrize("made", ["before", "in the child", "pickled"])
def test_an_async_client_in_a_forked_process_reaches_the_nodes_without_the_router(made: str) -> None:
    with cluster_of(3, "async") as harness:
        harness.client().set_many({key: b"before" for key in KEYS})
        requested = [*harness.cluster.requested]
        before = AsyncMilena(harness.cluster.address)
        sent = pickle.dumps(before)

        def child() -> bool:
            client = before
            if made == "in the child":
                client = AsyncMilena(harness.cluster.address)
            elif made == "pickled":
                client = pickle.loads(sent)
            return asyncio.run(use_everything(client))

        assert in_a_child(child) == 0
        assert harness.cluster.requested == requested
        assert read(harness.client(), KEYS) == [b"one", None, b"before"]


def test_an_async_client_that_ran_in_the_parent_goes_on_in_the_child() -> None:
    with DirectCluster(2) as cluster, asyncio.Runner() as runner:
        client = AsyncMilena(cluster.address)

        async def child() -> bool:
            return await client.get(FIRST) == b"v"

        runner.run(client.set(FIRST, b"v"))

        def known() -> bool:
            runner.run(asyncio.sleep(0.01))
            return client._direct._watch.current.epoch > 0

        wait_until("the ring is known", known, LONG)

        assert in_a_child(lambda: asyncio.run(child())) == 0
        assert runner.run(client.get(FIRST)) == b"v", "the parent's is as it was"
        runner.run(client.close())


def test_an_async_client_reports_in_a_forked_process_that_no_node_is_known() -> None:
    with cluster_of(3, "async") as harness:
        harness.client().set(FIRST, b"v")

        async def use() -> bool:
            client = AsyncMilena("127.0.0.1:1")
            for call in (client.get("k"), client.flush()):
                with pytest.raises(FailedPrecondition, match=r"forked .* spawn or forkserver"):
                    await call
            return True

        assert in_a_child(lambda: asyncio.run(use())) == 0


def test_a_worker_that_was_forked_takes_a_pickled_client(cluster: DirectCluster) -> None:
    client = Milena(cluster.address)
    client.set_many({key: key.encode() for key in KEYS})
    wait_until("the ring is known", lambda: client._direct._watch.current.epoch, LONG)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(read, (client, KEYS)) == [key.encode() for key in KEYS]
    client.close()


def test_the_rings_of_few_routers_are_kept_for_forks() -> None:
    from milena_common.runtime.forks import _process, remember_ring

    for number in range(40):
        remember_ring(f"router{number}:1", number)
    remember_ring("router39:1", None)
    kept = [each for each in _process().rings if each.startswith("router")]
    assert kept == [f"router{number}:1" for number in range(24, 39)]
    for each in kept:
        remember_ring(each, None)


def test_clients_that_are_gone_are_not_remembered_for_forks() -> None:
    from milena_common.runtime.forks import _process

    gc.collect()
    before = len(_process().inherited)
    for _ in range(20):
        Milena("127.0.0.1:1").close()
    gc.collect()
    assert len(_process().inherited) <= before
