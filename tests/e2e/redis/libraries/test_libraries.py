"""Libraries that keep things in Redis do the same at a node of three, and through a router, as with Redis."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.peers.redis_server import RedisServer, why_not
from tests.e2e.redis.libraries.calls import LIBRARIES

pytest.importorskip("lupa.lua54")
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(why_not(client=True)), reason=why_not(client=True))]

ROOT = Path(__file__).parents[4]
SECONDS = 100.0
# Those without wheels for some systems.
NOT_EVERYWHERE = ("glide", "flask_session")


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RedisServer(tmp_path_factory.mktemp("redis"), durable=False) as server:
        yield server.address


def results(library: str, *addresses: str) -> list[dict[str, Any]]:
    """What the library's calls return at each of the servers."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.e2e.redis.libraries.calls", library]
    urls = [f"redis://{address}" for address in addresses]
    done = subprocess.run([*command, *urls], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("library", LIBRARIES)
def test_its_calls_return_the_same(redis_server: str, ways: dict[str, str], library: str) -> None:
    if library in NOT_EVERYWHERE:
        pytest.importorskip(library)
    expected, at_node, through_router = results(library, redis_server, ways["node"], ways["router"])
    assert at_node == expected
    assert through_router == expected
