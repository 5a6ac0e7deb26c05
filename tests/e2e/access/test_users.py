"""Users and permissions with real processes: logins over every port, and what is denied."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
import redis

from milena_client import AccessDenied, Milena, Unauthenticated
from milena_client.admin import Admin
from milena_common.api.credentials import Credentials
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.api.pb import router_server_pb2_grpc as router_grpc
from tests.e2e.conftest import StartCluster
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

USERS = """
user root on >root-password ~* +@all
user app on >app-password ~app/* %R~pub/* +@read +@write +@connection +cluster
user metrics on >metrics-password +info
"""


@pytest.fixture
def guarded(start_cluster: StartCluster, tmp_path: Path) -> Cluster:
    """Two nodes and a router, with users and a token."""
    (tmp_path / "users.acl").write_text(USERS)
    (tmp_path / "token").write_text("the-token-of-this-cluster\n")
    env = {
        "ACL_FILE": str(tmp_path / "users.acl"),
        "CLUSTER_TOKEN_FILE": str(tmp_path / "token"),
        "REQUIRE_AUTH": "true",
        "AUDIT_LOG": str(tmp_path / "audit.jsonl"),
        "COPIES": "2",
    }
    return start_cluster(2, router_env=env, node_env=env)


def test_every_port_knows_the_users(guarded: Cluster, tmp_path: Path) -> None:
    address = guarded.address
    with (
        Milena(f"milena://app:app-password@{address}") as app,
        Milena(f"milena://root:root-password@{address}") as root,
    ):
        for number in range(20):
            app[f"app/{number}"] = b"v"
            root[f"secret/{number}"] = b"v"
        assert app.get("app/3") == b"v"
        root.flush()
        assert [each.key for each in app.scan()] == sorted(f"app/{number}" for number in range(20))
        for denied in (lambda: app.get("secret/1"), lambda: app.set("pub/1", b"v"), lambda: app.delete("x")):
            with pytest.raises(AccessDenied, match="No permissions to access a key"):
                denied()
    with Milena(f"milena://app:app-password@{address}?direct=false") as app:
        assert app.get("app/3") == b"v"
        with pytest.raises(AccessDenied):
            app.get("secret/1")
    for wrong in (f"milena://app:wrong@{address}", f"milena://{address}"):
        with Milena(wrong, timeout=2) as client, pytest.raises(Unauthenticated):
            client.get("app/1")
    with Milena(address, credentials=Credentials.of_token("app-password")) as client:
        assert client.get("app/3") == b"v"
    with Admin(address, credentials=Credentials("app", "app-password")) as admin, pytest.raises(AccessDenied):
        admin.flush()
    with Admin(address, credentials=Credentials("root", "root-password")) as admin:
        assert len(admin.nodes().nodes) == 2
        admin.flush()

    channel = grpc.insecure_channel(address)
    stub = router_grpc.RouterStub(channel)
    basic = "Basic " + b64encode(b"root:root-password").decode()
    with pytest.raises(grpc.RpcError) as raised:
        stub.Join(pb.JoinRequest(address="10.0.0.1:5"), metadata=(("authorization", basic),), timeout=5)
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as raised:
        stub.Get(pb.GetRequest(key=b"app/1"), timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    channel.close()

    node = guarded.nodes[0]
    metrics = f"http://{node.ops}"
    assert urlopen(f"{metrics}/readyz").status == 200
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{metrics}/metrics")
    login = "Basic " + b64encode(b"metrics:metrics-password").decode()
    text = urlopen(Request(f"{metrics}/metrics", headers={"Authorization": login})).read().decode()
    assert "milena_insecure_listener 0" in text
    assert 'milena_auth_failures_total{port="http",reason="missing"} 1.0' in text

    audited = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    events = {each["event"] for each in audited}
    assert {"login", "login_failed", "denied", "admin"} <= events
    # Nodes know for whom the router makes a call: its Flush is recorded there as that of the user.
    flushes = [each["user"] for each in audited if each["event"] == "admin" and each["action"] == "Flush"]
    assert set(flushes) == {"root"}
    assert len(flushes) >= 6, "two of them, at the router and at two nodes"
    assert "password" not in json.dumps(audited).replace('how": "password', "").replace('"reason": "password"', "")
    assert "secret/1" not in json.dumps(audited), "keys are hashed"


def test_users_are_replaced_while_clients_are_connected(guarded: Cluster, tmp_path: Path) -> None:
    node = guarded.nodes[0]
    port = int(node.resp.rpartition(":")[2])
    root = redis.Redis(port=port, username="root", password="root-password", protocol=3)
    app = redis.Redis(port=port, username="app", password="app-password")
    with pytest.raises(redis.exceptions.NoPermissionError):
        app.config_get("*")
    (tmp_path / "users.acl").write_text("user root on >root-password ~* +@all\nwrong\n")
    with pytest.raises(redis.exceptions.ResponseError, match="line 2"):
        root.acl_load()
    assert app.ping()
    (tmp_path / "users.acl").write_text(USERS.replace("+@connection", "+config"))
    assert root.acl_load()
    assert app.config_get("maxmemory")
    assert root.acl_whoami() == b"root"
    assert root.acl_users() == [b"app", b"default", b"metrics", b"root"]
    assert root.acl_getuser("app")["commands"]
    root.close()
    app.close()


def test_nodes_log_in_to_copy_each_others_writes(guarded: Cluster) -> None:
    def copied() -> bool:
        with Milena(f"milena://root:root-password@{guarded.address}") as root:
            for number in range(20):
                root[f"k/{number}"] = b"v"
        return all(metric(node.ops, "milena_copies_taken_total") > 0 for node in guarded.nodes)

    wait_until("both nodes have copies of the other's writes", copied, 20.0)


def metric(ops: str, name: str) -> float:
    """Return a metric of the process at `ops`, as the user for metrics sees it."""
    login = b64encode(b"metrics:metrics-password").decode()
    with urlopen(Request(f"http://{ops}/metrics", headers={"Authorization": f"Basic {login}"})) as response:
        lines = response.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))
