"""Libraries for Node.js do the same at a node of three, through a router, and as cluster clients, as with Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.redis_server import RedisServer
from bench.peers.redis_server import why_not as why_no_redis
from tests.support.npm.programs import NodeProgram, why_not

pytest.importorskip("lupa.lua54")
WHY_NOT = why_not() or why_no_redis(client=False)
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

HERE = Path(__file__).parent
# Clients of one server; of a node or router that asks others; and of the cluster.
SERVER, ANY, CLUSTER = "one", "any", "cluster"
# Calls that such clients do not make: those that need a connection of their own, commands on several slots where
# the client sends them to one node, and client-side caching. All are made of a server.
NOT_MADE: dict[str, dict[str, set[str]]] = {
    "ioredis": {ANY: set(), CLUSTER: {"watched", "unwatched", "step by step", "anywhere"}},
    "node_redis": {ANY: {"near", "invalidated"}, CLUSTER: {"watched", "unwatched", "pool"}},
    "connect_redis": {ANY: set(), CLUSTER: set()},
}
# The store of sessions does not know which protocol its client has.
CASES = [("ioredis", 2), ("ioredis", 3), ("node_redis", 2), ("node_redis", 3), ("connect_redis", 3)]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RedisServer(tmp_path_factory.mktemp("redis"), durable=False) as server:
        yield server.address


@pytest.mark.parametrize(("library", "protocol"), CASES)
def test_its_calls_return_the_same(
    redis_server: str, ways: dict[str, str], tmp_path: Path, library: str, protocol: int
) -> None:
    targets = {
        "redis": (SERVER, redis_server),
        "node": (ANY, ways["node"]),
    }
    if protocol == 3:  # their default
        targets |= {"cluster": (CLUSTER, ways["node"]), "router": (ANY, ways["router"])}
    # A node and a router are two ways to one cluster: names have another hash tag at each.
    programs = {
        where: NodeProgram(
            HERE / f"{library}.js",
            *(address, kind, str(protocol), f"{{{where}{protocol}}}{library}:"),
            directory=tmp_path,
            variables={"PROCESSES": "4"} if protocol == 3 and where != "router" else {},
        )
        for where, (kind, address) in targets.items()
    }
    results = {}
    for where, program in programs.items():
        text = json.dumps(program.results())
        results[where] = json.loads(text.replace(f"{{{where}{protocol}}}", "{}"))
    expected = results.pop("redis")
    for where, made in results.items():
        not_made = NOT_MADE[library][targets[where][0]] | ({"processes"} if where == "router" else set())
        assert made == {call: returned for call, returned in expected.items() if call not in not_made}, where
