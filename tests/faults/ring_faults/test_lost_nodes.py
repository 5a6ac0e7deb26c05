"""What a node serves that has lost its lease, while Redis clients still reach it: nothing from before."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
import redis

from milena_client import Milena
from milena_common.api.pb import cache_server_pb2 as pb
from tests.e2e.raw import cache_stub
from tests.faults.ring_faults.system import ROUTER, ProxiedNode, RingSystem
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

OLD, NEW, LATE = b"old", b"new", b"late"
READS, LOCKS, THROUGH = 50, 20, 20


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[RingSystem]:
    with RingSystem(tmp_path, nodes=3) as system:
        yield system
        assert system.defects() == []


def keys_of(ring: RingSystem, node: ProxiedNode, number: int, kind: str) -> list[str]:
    """`number` keys whose owner is `node`."""
    owners = ring.owners(f"{kind}/{each}" for each in range(8 * number))
    return [key for key, owner in owners.items() if owner == node.name][:number]


def wait_until_replaced(ring: RingSystem) -> None:
    """Block until two nodes are the ring, and serve the slots of the third one."""

    def replaced() -> bool:
        metrics = ring.router.metrics()
        names = "milena_router_ring_nodes", "milena_router_ring_unreleased_losses"
        return [metrics.value(name) for name in names] == [2, 0]

    wait_until("the node is lost, and its slots are released", replaced, 30)


def client_of(node: ProxiedNode) -> redis.Redis:
    """A client that calls this node, whatever it replies."""
    host, _, port = node.own_resp.rpartition(":")
    return redis.Redis(host=host, port=int(port), socket_timeout=5)


def test_a_node_that_only_the_router_has_lost_serves_nothing_from_before(ring: RingSystem) -> None:
    node = ring.nodes[0]
    read, locks, through = (
        keys_of(ring, node, number, kind)
        for number, kind in ((READS, "read"), (LOCKS, "lock"), (THROUGH, "through"))
    )
    with Milena(ring.address, timeout=20) as m, client_of(node) as there:
        m.set_many(dict.fromkeys(read, OLD), durability="through")
        assert [there.get(key) for key in read] == [OLD] * READS
        ring.network.disconnect([(node.name, ROUTER), (ROUTER, node.name)])
        wait_until_replaced(ring)
        m.set_many(dict.fromkeys(read, NEW))
        for key in locks:
            m.set(key, NEW, if_none_match="*")
        seen = [reply(lambda key=key: there.get(key)) for key in read]
        assert OLD not in seen
        assert {each for each in seen if each != NEW} <= {"MOVED", "CLUSTERDOWN"}
        assert "OK" not in {reply(lambda key=key: there.set(key, LATE, nx=True)) for key in locks}
        with cache_stub(node.own_address) as stub:
            acknowledged = [key for key in through if put_through(stub, key)]
        in_s3 = ring.in_s3()
        assert [key for key in acknowledged if in_s3.get(key) != LATE] == []
        assert m.get_many(locks) == dict.fromkeys(locks, NEW)
        ring.network.restore()
        ring.wait_until_whole(30)
        assert m.get_many(read) == dict.fromkeys(read, NEW)
        assert m.get_many(acknowledged) == dict.fromkeys(acknowledged, LATE)


def reply(call: object) -> object:
    """What a command returns; for an error its first word, "OK" for a success."""
    assert callable(call)
    try:
        found = call()
    except redis.exceptions.MovedError:
        return "MOVED"
    except redis.exceptions.ClusterDownError:
        return "CLUSTERDOWN"
    return "OK" if found is True else found


def put_through(stub: object, key: str) -> bool:
    request = pb.PutRequest(key=key.encode(), value=LATE, durability="through")
    try:
        return bool(stub.Put(request, timeout=5).successful)  # type: ignore[attr-defined]
    except grpc.RpcError:
        return False


def test_commands_that_waited_at_a_paused_node_get_nothing_from_before_its_lease(ring: RingSystem) -> None:
    node = ring.nodes[0]
    read, written = (keys_of(ring, node, number, kind) for number, kind in ((READS, "read"), (20, "written")))
    with Milena(ring.address, timeout=20) as m:
        m.set_many(dict.fromkeys([*read, *written], OLD), durability="through")
        with client_of(node) as there:
            assert [there.get(key) for key in read] == [OLD] * READS
        host, _, port = node.own_resp.rpartition(":")
        connect = partial(socket.create_connection, (host, int(port)), timeout=20)
        with connect() as gets, gets.makefile("rb") as got, connect() as sets, sets.makefile("rb") as was_set:
            for connection, replies in ((gets, got), (sets, was_set)):
                connection.sendall(b"PING\r\n")
                assert replies.readline() == b"+PONG\r\n"
            node.pause()
            try:
                gets.sendall(b"".join(f"GET {key}\r\n".encode() for key in read))
                sets.sendall(b"".join(f"SET {key} {LATE.decode()}\r\n".encode() for key in written))
                wait_until_replaced(ring)
                m.set_many(dict.fromkeys([*read, *written], NEW))
            finally:
                node.resume()
            seen = [value_of(got) for _ in read]
            acknowledged = [key for key in written if was_set.readline().startswith(b"+OK")]
        assert OLD not in seen
        ring.wait_until_whole(30)
        expected = dict.fromkeys(written, NEW) | dict.fromkeys(acknowledged, LATE)
        assert m.get_many(written) == expected, "an acknowledged write is the last one"


def value_of(replies: object) -> bytes:
    """The value of the next reply to GET, or its line if that is no value."""
    line: bytes = replies.readline()  # type: ignore[attr-defined]
    return bytes(replies.readline().rstrip()) if line.startswith(b"$") and line != b"$-1\r\n" else line  # type: ignore[attr-defined]
