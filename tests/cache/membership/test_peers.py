"""Connections between nodes: addresses that no node may have are not called, whatever the ring says."""

from __future__ import annotations

import pytest

from milena_cache.membership.peers import Peers
from milena_common.api.errors import NodeUnreachable
from milena_common.resp.identity import ANY


@pytest.mark.parametrize("address", ["169.254.169.254:80", "[::ffff:169.254.169.254]:80", "[fe80::1]:80"])
async def test_what_is_never_a_node_is_not_called(address: str) -> None:
    peers = Peers(lambda _: ANY)
    with pytest.raises(NodeUnreachable, match="must not be called"):
        await peers.request(address, b"", 1)
    await peers.close()
