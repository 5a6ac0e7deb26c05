"""Every port of a router and a node, plain and with TLS, has every feature of users: a cell for each of both."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
import redis

from milena_common.api.pb import cache_server_pb2 as node_pb
from milena_common.api.pb import router_server_pb2 as router_pb
from milena_common.network.addresses import parse_address
from tests.support.certificates import Authority, tls_variables, write_files
from tests.support.cluster import Cluster
from tests.support.ports import ReservedPort
from tests.support.s3.moto_server import MotoServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

AT_MOST = 30.0
OBJECT_PORTS = (
    *("router grpc", "router grpc tls", "node grpc", "node grpc tls"),
    *("router resp", "router resp tls", "node resp", "node resp tls"),
)
HTTP_PORTS = ("router http", "router http tls", "node http", "node http tls")
# Each port has users of its own, so that it meets its own limits, and not those that another one has used up.
RULES = {
    "keys": "~keys/* +get +set +acl",
    "bucket": "~* +get +set bucket:another-bucket",
    "command": "~* +get",
    "rate": "~* +get +set rate:2",
    "bytes": "~* +get +set bytes:2000",
    "reload": "~* +get +set +info",
}


class Denied(Exception):
    """The request was denied, or not authenticated."""


class Limited(Exception):
    """The request was over a limit."""


class Client(Protocol):
    """One connection of one user."""

    def get(self, key: str) -> object: ...
    def put(self, key: str, size: int) -> object: ...
    def close(self) -> None: ...


class OverGrpc:
    def __init__(self, address: str, ca: str, service: str, messages: Any, user: str) -> None:
        if ca:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(Path(ca).read_bytes()))
        else:
            self._channel = grpc.insecure_channel(address)
        self._service, self._messages = service, messages
        self._metadata = (("authorization", basic(user)),)

    def _call(self, method: str, request: Any) -> Any:
        made = self._channel.unary_unary(
            f"/{self._service}/{method}", request_serializer=type(request).SerializeToString
        )
        try:
            return made(request, timeout=AT_MOST, metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
                raise Denied(error.details()) from None
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Limited(error.details()) from None
            raise

    def get(self, key: str) -> object:
        return self._call("Get", self._messages.GetRequest(key=key.encode()))

    def put(self, key: str, size: int) -> object:
        return self._call("Put", self._messages.PutRequest(key=key.encode(), value=bytes(size)))

    def close(self) -> None:
        self._channel.close()


class OverResp:
    def __init__(self, address: str, ca: str, user: str) -> None:
        at = parse_address(address)
        security: dict[str, Any] = {"ssl": True, "ssl_ca_certs": ca} if ca else {}
        self._client = redis.Redis(
            host=at.host, port=at.port, username=user, password=f"{user}-pw", protocol=2, **security
        )

    def _send(self, *argv: object) -> object:
        try:
            return self._client.execute_command(*argv)
        except (redis.exceptions.NoPermissionError, redis.exceptions.AuthenticationError) as error:
            raise Denied(str(error)) from None
        except redis.exceptions.ResponseError as error:
            if str(error).startswith("RATELIMIT"):
                raise Limited(str(error)) from None
            raise

    def get(self, key: str) -> object:
        return self._send("GET", key)

    def put(self, key: str, size: int) -> object:
        return self._send("SET", key, bytes(size))

    def close(self) -> None:
        self._client.close()


def basic(user: str) -> str:
    return "Basic " + b64encode(f"{user}:{user}-pw".encode()).decode()


class Ports(NamedTuple):
    """A cluster of one node, all of whose ports are there; its file of users, and its authority's file."""

    cluster: Cluster
    router_resp: tuple[str, str]
    users: Path
    ca: str

    def address(self, port: str) -> str:
        node, router = self.cluster.nodes[0], self.cluster.router
        return {
            "router grpc": router.address,
            "router grpc tls": router.tls_address,
            "node grpc": node.address,
            "node grpc tls": node.tls_address,
            "router resp": self.router_resp[0],
            "router resp tls": self.router_resp[1],
            "node resp": node.resp,
            "node resp tls": node.resp_tls,
            "router http": router.ops,
            "router http tls": router.ops,
            "node http": node.ops,
            "node http tls": node.ops,
        }[port]

    def client(self, port: str, user: str) -> Client:
        ca = self.ca if port.endswith("tls") else ""
        if "resp" in port:
            return OverResp(self.address(port), ca, user)
        if port.startswith("router"):
            return OverGrpc(self.address(port), ca, "router_server.Router", router_pb, user)
        return OverGrpc(self.address(port), ca, "cache_server.Cache", node_pb, user)

    def metrics(self, port: str, user: str) -> int:
        """Return the status of /metrics."""
        encrypted = port.endswith("tls")
        url = f"http{'s' if encrypted else ''}://{self.address(port)}/metrics"
        context = ssl.create_default_context(cafile=self.ca) if encrypted else None
        try:
            headers = {"Authorization": basic(user)}
            with urlopen(Request(url, headers=headers), timeout=AT_MOST, context=context) as reply:
                return int(reply.status)
        except HTTPError as error:
            return error.code

    def write_users(self, reload: str = RULES["reload"]) -> None:
        lines = ["user admin on >admin-pw ~* +@all"]
        for port in (*OBJECT_PORTS, *HTTP_PORTS):
            for name, rules in {**RULES, "reload": reload}.items():
                user = named(name, port)
                lines.append(f"user {user} on >{user}-pw {rules}")
        new = self.users.with_suffix(".new")
        new.write_text("\n".join(lines))
        new.rename(self.users)


def named(feature: str, port: str) -> str:
    return f"{feature}-{port.replace(' ', '-')}"


@pytest.fixture(scope="module")
def ports(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("ports")
    authority = Authority()
    files = write_files(folder, authority.pem, authority.issue(), "tls")
    (folder / "token").write_text("the-token-of-this-cluster")
    variables = {
        **tls_variables(files),
        "TLS": "both",
        "TLS_CLIENT_AUTH": "off",
        "CLUSTER_CERT_NAMES": "",
        "ACL_FILE": str(folder / "users"),
        "CLUSTER_TOKEN_FILE": str(folder / "token"),
        "RATE_LIMIT": "0",
    }
    with ReservedPort() as plain, ReservedPort() as encrypted:
        resp = {"RESP_ADDR": plain.address, "RESP_TLS_ADDR": encrypted.address}
        ports = Ports.__new__(Ports, None, (plain.address, encrypted.address), folder / "users", files.authorities)  # type: ignore[arg-type]
        ports.write_users()
        with Cluster(
            folder / "cluster",
            moto.endpoint_url,
            moto.new_bucket(),
            1,
            router_env={**variables, **resp},
            node_env=variables,
        ) as cluster:
            yield ports._replace(cluster=cluster)
            assert cluster.tracebacks() == []


@pytest.fixture
def connect(ports: Ports) -> Iterator[Callable[[str, str], Client]]:
    """Connects a user of a feature to a port."""
    opened: list[Client] = []

    def connect(feature: str, port: str) -> Client:
        opened.append(ports.client(port, named(feature, port)))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


Connect = Callable[[str, str], Client]
every_port = pytest.mark.parametrize("port", OBJECT_PORTS)


@every_port
def test_key_patterns(connect: Connect, port: str) -> None:
    client = connect("keys", port)
    client.put("keys/1", 1)
    client.get("keys/1")
    for denied in (lambda: client.get("other"), lambda: client.put("other", 1)):
        with pytest.raises(Denied):
            denied()


@every_port
def test_buckets(connect: Connect, port: str) -> None:
    client = connect("bucket", port)
    with pytest.raises(Denied):
        client.get("keys/1")
    with pytest.raises(Denied):
        client.put("keys/1", 1)


@every_port
def test_commands(connect: Connect, port: str) -> None:
    client = connect("command", port)
    client.get("keys/1")
    with pytest.raises(Denied):
        client.put("keys/1", 1)


@every_port
def test_rates(connect: Connect, port: str) -> None:
    client = connect("rate", port)

    def limited() -> bool:
        try:
            client.get("keys/1")
        except Limited:
            return True
        return False

    # Two a second: a slow machine needs some more calls.
    wait_until("calls are limited", limited, AT_MOST)


@every_port
def test_bytes(connect: Connect, port: str) -> None:
    client = connect("bytes", port)
    client.put("keys/large", 100_000)
    with pytest.raises(Limited):
        client.get("keys/1")


@every_port
def test_rejections_are_in_the_log_of_the_process(ports: Ports, connect: Connect, port: str) -> None:
    client = connect("keys", port)
    with pytest.raises(Denied):
        client.get("other")
    if port.startswith("node"):
        admin = redis.Redis(
            port=parse_address(ports.address("node resp")).port, username="admin", password="admin-pw"
        )
        users = {entry["username"] for entry in admin.acl_log(128)}
        admin.close()
        assert named("keys", port) in {user.decode() if isinstance(user, bytes) else user for user in users}


@pytest.mark.parametrize("port", HTTP_PORTS)
def test_metrics_need_info(ports: Ports, port: str) -> None:
    assert ports.metrics(port, named("reload", port)) == 200
    assert ports.metrics(port, named("keys", port)) == 401
    assert ports.metrics(port, "nobody") == 401


def test_a_new_file_counts_on_connections_that_are_open(ports: Ports, connect: Connect) -> None:
    """The last one: it changes the file."""
    clients = {port: connect("reload", port) for port in OBJECT_PORTS}
    for client in clients.values():
        client.put("keys/1", 1)
    ports.write_users("~* +get")

    def may_not(client: Client) -> bool:
        try:
            client.put("keys/1", 1)
        except Denied:
            return True
        return False

    for port, client in clients.items():
        wait_until(f"{port}: the rules have changed", lambda client=client: may_not(client), AT_MOST)
        client.get("keys/1")
    for port in HTTP_PORTS:
        wait_until(port, lambda port=port: ports.metrics(port, named("reload", port)) == 401, AT_MOST)
