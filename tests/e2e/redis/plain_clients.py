"""Redis clients that know one address, and the ways by which they reach all nodes; see the fixture `ways`."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from milena_common.network.addresses import parse_address

PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])
WAYS = pytest.mark.parametrize("way", ["node", "router"])
SECONDS = 60.0


def client(address: str, protocol: int = 2) -> Any:
    at = parse_address(address)
    return redis.Redis(host=at.host, port=at.port, protocol=protocol, socket_timeout=SECONDS)
