"""Pure. The keys that are read most, of all nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milena_client.core.operations import Operation
from milena_common.api.methods import HOT_KEYS
from milena_common.api.pb import router_server_pb2 as pb


@dataclass(frozen=True, slots=True)
class HotKey:
    """A key that is read often.

    - `key`, `bucket`: its name; the bucket "" is the default one.
    - `reads`: its reads a second.
    - `read_bytes`: bytes of its values that were read, a second.
    - `node`: the node that has served it.
    """

    key: str
    bucket: str
    reads: float
    read_bytes: float
    node: str


@dataclass(frozen=True, slots=True)
class HotKeys:
    """The hot keys of all nodes, in the last whole window of each, of about ten seconds.

    - `reads`, `read_bytes`: of all keys, a second.
    - `by_reads`, `by_bytes`: the hottest first; a node names at most 32 of each kind.
    - `errors`: by node, why the router got no reply from it.
    """

    reads: float
    read_bytes: float
    by_reads: list[HotKey]
    by_bytes: list[HotKey]
    errors: dict[str, str]


def read_hot_keys(*, reset: bool) -> Operation[HotKeys]:
    """Return the operation that reads the hot keys of all nodes; with `reset`, they forget them."""
    request = pb.HotKeysRequest(reset=reset)
    return Operation(HOT_KEYS.name, request, _read_hot_keys, HOT_KEYS.repeatable, "hot_keys")


def _read_hot_keys(response: pb.HotKeysResponse) -> HotKeys:
    nodes = response.nodes

    def named(node: pb.NodeHotKeys, keys: Sequence[pb.HotKey]) -> list[HotKey]:
        return [
            HotKey(each.key.decode(errors="replace"), each.bucket, each.reads, each.read_bytes, node.address)
            for each in keys
        ]

    return HotKeys(
        sum(node.reads for node in nodes),
        sum(node.read_bytes for node in nodes),
        sorted((key for node in nodes for key in named(node, node.by_reads)), key=lambda key: -key.reads),
        sorted((key for node in nodes for key in named(node, node.by_bytes)), key=lambda key: -key.read_bytes),
        {node.address: node.error for node in nodes if node.error},
    )
