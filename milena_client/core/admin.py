"""Pure. What operators do with a cluster, and programs do not: the admin operations, and the values they return.

The admin clients of `milena_client.aio` and `milena_client.sync` run these operations; all go to the router. An
operation that could do more harm when it is repeated is marked as not repeatable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from milena_client.core.operations import Operation
from milena_client.core.values import Key, encode_key, key_list
from milena_common.api.errors import InvalidRequest
from milena_common.api.methods import LEAVE, LIST_DEAD_LETTERS, NODES, OWNER, REFRESH, RESOLVE_DEAD_LETTERS, STATS
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import MissingNode


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the ring.

    - `address`: its gRPC address, which is its name in the ring.
    - `node_id`: the name of its process; another one after a restart.
    - `weight`: its NODE_WEIGHT.
    - `addresses`: its other addresses by name: "ops" for metrics and health, "resp" for the Redis protocol.
    - `slots`: how many of the 16384 slots it owns.
    - `lease_remaining`: seconds until it is taken out of the ring unless it renews its lease.
    - `member_for`: seconds since it joined.
    - `dirty_entries`: acknowledged writes that wait for S3, as it last reported; None: not reported.
    - `dead_letters`: further ones, which S3 rejected permanently.
    - `degraded`: reasons for an operator to look at it.
    """

    address: str
    node_id: str
    weight: float
    addresses: Mapping[str, str]
    slots: int
    lease_remaining: float
    member_for: float
    dirty_entries: int | None = None
    dead_letters: int = 0
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RingView:
    """The ring as the router has it.

    - `epoch`: grows with every change.
    - `nodes`: its nodes, by address.
    - `missing`: nodes that left without handing over, and are neither back nor written off.
    """

    epoch: int
    nodes: list[Node]
    missing: list[MissingNode] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which node owns a key.

    - `slot`: the key's slot, 0 to 16383.
    - `address`: the owner; "" in an empty ring.
    - `successor`: the node that would own it if `address` left; "" with a single node.
    - `epoch`: the ring's epoch.
    - `owned_since`: the epoch since which the owner has the slot.
    """

    slot: int
    address: str
    successor: str
    epoch: int
    owned_since: int


@dataclass(frozen=True, slots=True)
class NodeStats:
    """The counts of one node.

    - `address`: the node.
    - `values`: its numbers by name: hits, misses, entries, bytes, s3_gets and so on.
    - `not_ready`: why it is not ready; "" if it is.
    - `error`: why the router got no reply from it; "" if it did.
    - `degraded`: reasons for an operator to look at it, although it serves.
    """

    address: str
    values: Mapping[str, float]
    not_ready: str
    error: str
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FailedWrite:
    """A write that was acknowledged and that S3 does not take. Reads still return it.

    It is a dead letter, which S3 rejected permanently, or stuck: its uploads fail while others succeed.

    - `key`: its key.
    - `bucket`: its bucket; "" is the default one.
    - `operation`: "put" or "delete".
    - `size`: bytes of the value.
    - `version`: the name of this write in journal and logs.
    - `reason`: the reply of S3.
    - `failed_at`: when, in seconds since 1970.
    - `node`: the address of the node that keeps it.
    """

    key: str
    bucket: str
    operation: str
    size: int
    version: str
    reason: str
    failed_at: float
    node: str


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Dead letters and stuck writes.

    - `writes`: those that failed first are first.
    - `total`: how many there are, also beyond the requested limit.
    """

    writes: list[FailedWrite]
    total: int


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The result of `Admin.refresh`.

    - `refreshed`: how many entries were dropped.
    - `dirty`: how many objects were kept, because S3 does not have them yet.
    """

    refreshed: int
    dirty: int


def problems(stats: list[NodeStats], nodes: Iterable[Node] = ()) -> list[str]:
    """Return the problems of the nodes of `stats`, a line each; none if all are ready and none is degraded.

    `nodes`: for nodes that do not respond, their last reports.
    """
    found = [] if stats else ["the ring has no node"]
    reported = {node.address: node for node in nodes}
    for node in stats:
        state = node.error or node.not_ready
        if state:
            found.append(f"node {node.address}: {state}{_last_count(reported.get(node.address), node.error)}")
        found += [f"node {node.address}: degraded: {reason}" for reason in node.degraded]
    return found


def _last_count(node: Node | None, error: str) -> str:
    """Return the last reported count of writes of a node that does not respond, as text; "" if there is none."""
    if not error or node is None or node.dirty_entries is None:
        return ""
    return f"; it last reported {node.dirty_entries + node.dead_letters} acknowledged writes not in S3"


def list_nodes() -> Operation[RingView]:
    """Return the operation that reads the ring."""
    return Operation(NODES.name, pb.NodesRequest(), _read_nodes, NODES.repeatable, "nodes")


def find_owner(key: Key, bucket: str) -> Operation[Ownership]:
    """Return the operation that reads which node owns `key`. Raises InvalidRequest for an invalid key."""
    encoded = encode_key(key)
    return Operation(
        OWNER.name, pb.OwnerRequest(key=encoded, bucket=bucket), _read_owner, OWNER.repeatable, "owner", encoded
    )


def read_stats() -> Operation[list[NodeStats]]:
    """Return the operation that reads the counts of all nodes."""
    return Operation(STATS.name, pb.StatsRequest(), _read_stats, STATS.repeatable, "stats")


def remove_node(address: str, forget: bool) -> Operation[bool]:
    """Return the operation that takes a node out of the ring; with `forget`, that writes off a missing one."""
    request = pb.LeaveRequest(address=address, forget=forget)
    return Operation(LEAVE.name, request, _read_left, LEAVE.repeatable, "leave", address.encode())


def refresh(keys: Iterable[Key], prefix: Key | None, bucket: str) -> Operation[Refreshed]:
    """Return the operation that drops clean entries of nodes.

    Raises InvalidRequest for both, or neither, of `keys` and `prefix`.
    """
    encoded = [encode_key(key) for key in key_list(keys)]
    if bool(encoded) == (prefix is not None):
        raise InvalidRequest("keys, prefix: refresh needs one of them")
    below = prefix.encode() if isinstance(prefix, str) else prefix or b""
    request = pb.RefreshRequest(keys=encoded, bucket=bucket, prefix=below)
    return Operation(REFRESH.name, request, _read_refreshed, REFRESH.repeatable, "refresh")


def list_dead_letters(limit: int) -> Operation[DeadLetters]:
    """Return the operation that lists at most `limit` dead letters. Raises InvalidRequest for a limit below 1."""
    if not 0 < limit < 2**32:
        raise InvalidRequest(f"limit: got {limit}; allowed are 1 and more")
    return Operation(
        LIST_DEAD_LETTERS.name,
        pb.ListDeadLettersRequest(limit=limit),
        _read_failed,
        LIST_DEAD_LETTERS.repeatable,
        "failed",
    )


def resolve_dead_letters(
    action: Literal["retry", "drop"], keys: Iterable[Key], everything: bool, bucket: str
) -> Operation[int]:
    """Return the operation that uploads dead letters again, or deletes them.

    Raises InvalidRequest for both, or neither, of `keys` and `everything`.
    """
    encoded = [encode_key(key) for key in key_list(keys)]
    if everything == bool(encoded):
        raise InvalidRequest(f"keys, all: {action} needs one of them: some keys, or all failed writes")
    request = pb.ResolveDeadLettersRequest(
        action=action, keys=encoded, bucket="" if everything else bucket, all=everything
    )
    # A repeated drop could also delete a write that has failed in between.
    return Operation(RESOLVE_DEAD_LETTERS.name, request, _read_resolved, action == "retry", action)


def _read_nodes(response: pb.NodesResponse) -> RingView:
    nodes = [
        Node(
            node.address,
            node.node_id,
            node.weight,
            dict(node.addresses),
            node.slots,
            node.lease_remaining_seconds,
            node.member_seconds,
            node.dirty_entries if node.HasField("dirty_entries") else None,
            node.dead_letters,
            tuple(node.degraded),
        )
        for node in response.nodes
    ]
    return RingView(response.epoch, nodes, list(map(MissingNode.from_message, response.missing)))


def _read_owner(response: pb.OwnerResponse) -> Ownership:
    return Ownership(response.slot, response.address, response.successor, response.epoch, response.owned_since)


def _read_stats(response: pb.StatsResponse) -> list[NodeStats]:
    return [
        NodeStats(node.address, dict(node.values), node.not_ready, node.error, tuple(node.degraded))
        for node in response.nodes
    ]


def _read_refreshed(response: pb.RefreshResponse) -> Refreshed:
    return Refreshed(response.refreshed, response.dirty)


def _read_failed(response: pb.ListDeadLettersResponse) -> DeadLetters:
    writes = [
        FailedWrite(
            write.key.decode(errors="replace"),
            write.bucket,
            write.operation,
            write.size,
            write.version,
            write.reason,
            write.failed_at,
            write.node,
        )
        for write in response.writes
    ]
    return DeadLetters(writes, response.total)


def _read_resolved(response: pb.ResolveDeadLettersResponse) -> int:
    return response.resolved


def _read_left(response: pb.LeaveResponse) -> bool:
    return response.successful
