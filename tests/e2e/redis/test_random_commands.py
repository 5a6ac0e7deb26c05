"""Random sequences of commands: a node replies as Redis does. `python -m tests.e2e.redis.fuzz` sends more."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers.redis_server import RedisServer, why_not
from tests.e2e.redis.fuzz import compare

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(why_not(client=False)), reason=why_not(client=False))]


@pytest.mark.parametrize("transactions", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_node_replies_as_redis_does(tmp_path: Path, protocol: int, transactions: bool) -> None:
    with RedisServer(tmp_path, durable=False) as redis:
        assert await compare(redis.address, 12_500, protocol, protocol, transactions=transactions) == []
