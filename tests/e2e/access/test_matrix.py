"""Every user, verb, key and port: what is allowed is what one table says. The file of users is made from it too."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
import redis

from milena_common.api.pb import cache_server_pb2 as node_pb
from milena_common.api.pb import cache_server_pb2_grpc as node_grpc
from milena_common.api.pb import router_server_pb2 as router_pb
from milena_common.api.pb import router_server_pb2_grpc as router_grpc
from tests.e2e.conftest import StartCluster
from tests.support.cluster import Cluster
from tests.support.ports import ReservedPort

KEYS = ("app/1", "pub/1", "in/1", "secret/1")
READ, WRITE, LIST, INFO = ["read", "write", "list", "info"]
ADMIN, RING, CLUSTER, ANY = ["admin", "ring", "cluster", "any"]


@dataclass(frozen=True)
class Kind:
    """A user: the kinds of verbs that it may run, the prefixes that it may read and write, and its rules."""

    verbs: frozenset[str]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    rules: str


def kind(verbs: str, reads: tuple[str, ...], writes: tuple[str, ...], rules: str) -> Kind:
    return Kind(frozenset(verbs.split()), reads, writes, rules)


USERS = {
    "admin": kind("read write list info admin ring", ("",), ("",), "on >admin-pw ~* +@all"),
    "reader": kind("read list", ("",), (), "on >reader-pw %R~* +@read"),
    "app": kind("read write list", ("app/", "pub/"), ("app/",), "on >app-pw ~app/* %R~pub/* +@read +@write"),
    "writer": kind("write", (), ("in/",), "on >writer-pw %W~in/* +@write"),
    "selector": kind("read write", ("pub/",), ("in/",), "on >selector-pw (+get +mget ~pub/*) (+@write ~in/*)"),
    "metrics": kind("info", (), (), "on >metrics-pw +info"),
    "topology": kind("ring", (), (), "on >topology-pw +cluster"),
    "nothing": kind("", ("",), ("",), "on >nothing-pw ~*"),
    "disabled": kind("", (), (), "off >disabled-pw ~* +@all"),
}
# Verbs with a key: the kind of access, and how they are made; for each port.
KEYED: dict[str, dict[str, tuple[str, Callable[[Any, str], Any]]]] = {
    "resp": {
        "GET": (READ, lambda client, key: client.get(key)),
        "MGET": (READ, lambda client, key: client.execute_command("MGET", key)),
        "SET": (WRITE, lambda client, key: client.set(key, b"v")),
        "DEL": (WRITE, lambda client, key: client.execute_command("DEL", key)),
        "CALL Get": (READ, lambda client, key: called(client, "Get", node_pb.GetRequest(key=key.encode()))),
        "CALL Put": (WRITE, lambda client, key: called(client, "Put", node_pb.PutRequest(key=key.encode()))),
    },
    "router": {
        "Get": (READ, lambda stub, key: stub("Get", router_pb.GetRequest(key=key.encode()))),
        "Put": (WRITE, lambda stub, key: stub("Put", router_pb.PutRequest(key=key.encode(), value=b"v"))),
        "Delete": (WRITE, lambda stub, key: stub("Delete", router_pb.DeleteRequest(key=key.encode()))),
    },
    "node": {
        "Get": (READ, lambda stub, key: stub("Get", node_pb.GetRequest(key=key.encode()))),
        "Put": (WRITE, lambda stub, key: stub("Put", node_pb.PutRequest(key=key.encode(), value=b"v"))),
        "Delete": (WRITE, lambda stub, key: stub("Delete", node_pb.DeleteRequest(key=key.encode()))),
    },
}
KEYED["router-resp"] = KEYED["resp"]
KEYLESS: dict[str, dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "resp": {
        "SCAN": (LIST, lambda client: client.execute_command("SCAN", "0")),
        "INFO": (INFO, lambda client: client.execute_command("INFO")),
        "CONFIG GET": (ADMIN, lambda client: client.execute_command("CONFIG", "GET", "maxmemory")),
        "CLIENT LIST": (ADMIN, lambda client: client.execute_command("CLIENT", "LIST")),
        "ACL LIST": (ADMIN, lambda client: client.execute_command("ACL", "LIST")),
        "SLOWLOG": (ADMIN, lambda client: client.execute_command("SLOWLOG", "LEN")),
        "HOTKEYS": (ADMIN, lambda client: client.execute_command("HOTKEYS", "GET")),
        "DEBUG SLEEP": (ADMIN, lambda client: client.execute_command("DEBUG", "SLEEP", "0")),
        "CLUSTER NODES": (RING, lambda client: client.execute_command("CLUSTER", "MYID")),
        "MILENA.PEEK": (CLUSTER, lambda client: client.execute_command("MILENA.PEEK", "1", "k")),
        "CALL Invalidate": (
            CLUSTER,
            lambda client: called(client, "Invalidate", node_pb.InvalidateRequest()),
        ),
        "CALL Flush": (ADMIN, lambda client: called(client, "Flush", node_pb.FlushRequest())),
    },
    "router-resp": {
        "INFO": (INFO, lambda client: client.execute_command("INFO")),
        "CLIENT LIST": (ADMIN, lambda client: client.execute_command("CLIENT", "LIST")),
        "CLUSTER": (RING, lambda client: client.execute_command("CLUSTER", "MYID")),
    },
    "router": {
        "List": (LIST, lambda stub: stub("List", router_pb.ListRequest())),
        "Stats": (INFO, lambda stub: stub("Stats", router_pb.StatsRequest())),
        "Size": (INFO, lambda stub: stub("Size", router_pb.SizeRequest())),
        "HotKeys": (ADMIN, lambda stub: stub("HotKeys", router_pb.HotKeysRequest())),
        "Nodes": (RING, lambda stub: stub("Nodes", router_pb.NodesRequest())),
        "Flush": (ADMIN, lambda stub: stub("Flush", router_pb.FlushRequest())),
        "ListDeadLetters": (ADMIN, lambda stub: stub("ListDeadLetters", router_pb.ListDeadLettersRequest())),
        "Refresh": (ADMIN, lambda stub: stub("Refresh", router_pb.RefreshRequest())),
        "Sweep": (ADMIN, lambda stub: stub("Sweep", router_pb.SweepRequest(job="0" * 32, end=True))),
        "Warm": (ADMIN, lambda stub: stub("Warm", router_pb.WarmRequest())),
        "Leave": (ADMIN, lambda stub: stub("Leave", router_pb.LeaveRequest(address="127.0.0.1:1"))),
        "Join": (CLUSTER, lambda stub: stub("Join", router_pb.JoinRequest(address="127.0.0.1:1"))),
    },
    "node": {
        "List": (LIST, lambda stub: stub("List", node_pb.ListRequest())),
        "Stats": (INFO, lambda stub: stub("Stats", node_pb.StatsRequest())),
        "Size": (INFO, lambda stub: stub("Size", node_pb.SizeRequest())),
        "HotKeys": (ADMIN, lambda stub: stub("HotKeys", node_pb.HotKeysRequest())),
        "Flush": (ADMIN, lambda stub: stub("Flush", node_pb.FlushRequest())),
        "ListDeadLetters": (ADMIN, lambda stub: stub("ListDeadLetters", node_pb.ListDeadLettersRequest())),
        "Sweep": (ADMIN, lambda stub: stub("Sweep", node_pb.SweepRequest(job="0" * 32, end=True))),
        "Warm": (ADMIN, lambda stub: stub("Warm", node_pb.WarmRequest())),
        "Invalidate": (CLUSTER, lambda stub: stub("Invalidate", node_pb.InvalidateRequest(key=b"k"))),
        "AbandonMoves": (CLUSTER, lambda stub: stub("AbandonMoves", node_pb.AbandonMovesRequest())),
    },
    "http": {
        "/metrics": (INFO, lambda get: get("/metrics")),
        "/livez": (ANY, lambda get: get("/livez")),
        "/readyz": (ANY, lambda get: get("/readyz")),
    },
}


def called(client: Any, method: str, request: Any) -> Any:
    return client.execute_command("MILENA.CALL", method, "5000", request.SerializeToString())


def allowed(user: str, access: str, key: str = "") -> bool:
    """What the table says."""
    if access == ANY:
        return True
    if user not in USERS or access not in USERS[user].verbs:
        return False
    if not key:
        return True
    prefixes = USERS[user].reads if access == READ else USERS[user].writes
    return any(key.startswith(prefix) for prefix in prefixes)


@pytest.fixture
def guarded(start_cluster: StartCluster, tmp_path: Path) -> Iterator[tuple[Cluster, int]]:
    """A cluster with these users, and its router's Redis port."""
    lines = [f"user {name} {each.rules}" for name, each in USERS.items()]
    (tmp_path / "users").write_text("\n".join(lines))
    (tmp_path / "token").write_text("the-token-of-this-cluster")
    env = {"ACL_FILE": str(tmp_path / "users"), "CLUSTER_TOKEN_FILE": str(tmp_path / "token")}
    with ReservedPort() as port:
        yield start_cluster(1, router_env={**env, "RESP_ADDR": port.address}, node_env=env), port.number


class Denied(Exception):
    """The request was denied, or not authenticated."""


def over_grpc(service: Any, header: str) -> Callable[[str, Any], Any]:
    """Calls a method by name; Denied if it is denied."""
    metadata = (("authorization", header),) if header else ()

    def call(method: str, request: Any) -> Any:
        try:
            return getattr(service, method)(request, metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
                raise Denied(error.details()) from None
            raise

    return call


class Resp:
    """A connection of a user, which may have failed to log in; Denied for what is denied."""

    def __init__(self, port: int, user: str) -> None:
        self._client = redis.Redis(port=port, max_connections=1, protocol=2)
        self._user = user
        self._connection = self._client.connection_pool.get_connection()
        if user in USERS:
            try:
                self._send("AUTH", user, f"{user}-pw")
            except Denied:
                assert user == "disabled"

    def _send(self, *argv: Any) -> Any:
        self._connection.send_command(*argv)
        try:
            return self._connection.read_response()
        except redis.exceptions.AuthenticationError as error:
            raise Denied(str(error)) from None
        except redis.exceptions.NoPermissionError as error:
            raise Denied(str(error)) from None

    def execute_command(self, *argv: Any) -> Any:
        return self._send(*argv)

    def get(self, key: str) -> Any:
        return self._send("GET", key)

    def set(self, key: str, value: bytes) -> Any:
        return self._send("SET", key, value)

    def close(self) -> None:
        self._connection.disconnect()
        self._client.close()


def over_http(address: str, header: str) -> Callable[[str], int]:
    def get(path: str) -> int:
        headers = {"Authorization": header} if header else {}
        try:
            return int(urlopen(Request(f"http://{address}{path}", headers=headers)).status)
        except HTTPError as error:
            if error.code == 401 or error.code == 403:
                raise Denied(path) from None
            raise

    return get


def cells(cluster: Cluster, redis_port: int, user: str) -> Iterator[tuple[str, bool, Callable[[], Any]]]:
    """What identifies a cell, whether it is to be allowed, and the request."""
    header = "Basic " + b64encode(f"{user}:{user}-pw".encode()).decode()
    if user not in USERS or user == "disabled":
        header = ""  # logins that fail would wait
    node = cluster.nodes[0]
    resp, through_router = Resp(int(node.resp.rpartition(":")[2]), user), Resp(redis_port, user)
    with grpc.insecure_channel(cluster.address) as to_router, grpc.insecure_channel(node.address) as to_node:
        ways: dict[str, Any] = {
            "resp": resp,
            "router-resp": through_router,
            "router": over_grpc(router_grpc.RouterStub(to_router), header),
            "node": over_grpc(node_grpc.CacheStub(to_node), header),
            "http": over_http(node.ops, header),
        }
        for port, verbs in KEYED.items():
            for verb, (access, keyed) in verbs.items():
                for key in KEYS:
                    expected = allowed(user, access, key)
                    yield f"{user} {port} {verb} {key}", expected, lambda k=key, f=keyed, w=ways[port]: f(w, k)
        for port, keyless_verbs in KEYLESS.items():
            for verb, (access, keyless) in keyless_verbs.items():
                yield f"{user} {port} {verb}", allowed(user, access), lambda f=keyless, w=ways[port]: f(w)
    resp.close()
    through_router.close()


def test_every_cell_is_as_the_table_says(guarded: tuple[Cluster, int]) -> None:
    wrong = []
    number = 0
    for user in (*USERS, "anonymous"):
        for name, expected, request in cells(*guarded, user):
            number += 1
            try:
                request()
                done = True
            except Denied:
                done = False
            except (redis.exceptions.ResponseError, grpc.RpcError) as error:
                done = True  # permitted, and rejected for another reason
                if not expected:
                    wrong.append(f"{name}: {error}")
                    continue
            if done is not expected:
                wrong.append(f"{name}: {'allowed' if done else 'denied'}")
    assert number >= 400
    assert wrong == []
