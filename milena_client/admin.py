"""Coordination. Looking at a cluster and changing its ring: what operators do, and programs do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from milena_client.blocking_clock import BlockingClock, BlockingSystemClock
from milena_client.calls import DEFAULT_TIMEOUT, Caller, Retries
from milena_client.connection import GrpcTransport
from milena_client.operations import Operation
from milena_client.retry import DEFAULT_RETRY, RetryPolicy
from milena_client.transport import Transport
from milena_client.url import DEFAULT_ADDRESS
from milena_client.values import Key, checked_bucket, encode_key
from milena_common.pb import router_server_pb2 as pb


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the ring. `slots` are of 16384; `addresses` are its other doors by name ("ops")."""

    address: str
    node_id: str
    weight: float
    addresses: Mapping[str, str]
    slots: int
    lease_remaining: float  # seconds
    member_for: float  # seconds


@dataclass(frozen=True, slots=True)
class RingView:
    """The ring as the router has it."""

    epoch: int
    nodes: list[Node]


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which node a key belongs to. `successor` would own it if `address` left; "" with a single node."""

    slot: int
    address: str
    successor: str
    epoch: int
    owned_since: int


@dataclass(frozen=True, slots=True)
class NodeStats:
    """What one node counts, by name: hits, misses, entries, bytes, s3_gets and so on.

    `not_ready` says why it is not ready, `error` why it could not be asked; "" when all is well.
    """

    address: str
    values: Mapping[str, float]
    not_ready: str
    error: str


def problems(stats: list[NodeStats]) -> list[str]:
    """What keeps the cluster from being healthy, a line each; none if every node is ready."""
    if not stats:
        return ["the ring has no node"]
    return [
        f"node {node.address}: {node.error or node.not_ready}" for node in stats if node.error or node.not_ready
    ]


class Admin:
    """The operator's calls to the router at `address`. Parameters and errors are `Milena`'s. Thread-safe."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        bucket: str = "",
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy = DEFAULT_RETRY,
        transport: Transport | None = None,
        clock: BlockingClock | None = None,
    ) -> None:
        self._bucket = checked_bucket(bucket)
        retries = Retries(timeout, retry)
        self._transport = transport or GrpcTransport(address)
        self._run = Caller(self._transport, retries, clock or BlockingSystemClock()).run

    def nodes(self) -> RingView:
        """The nodes of the ring, by address."""
        return self._run(Operation("Nodes", pb.NodesRequest(), _read_nodes, True, "nodes"))

    def owner(self, key: Key) -> Ownership:
        """The node that owns `key`; its address is "" in an empty ring."""
        encoded = encode_key(key)
        request = pb.OwnerRequest(key=encoded, bucket=self._bucket)
        return self._run(Operation("Owner", request, _read_owner, True, "owner", encoded))

    def stats(self) -> list[NodeStats]:
        """What every node of the ring counts. Never raises for a node that cannot be asked: it says so itself."""
        return self._run(Operation("Stats", pb.StatsRequest(), _read_stats, True, "stats"))

    def leave(self, address: str) -> bool:
        """Take the node at `address` out of the ring; False if it is not in it.

        A node that is still running joins again within a third of its lease: stop it first.
        """
        request = pb.LeaveRequest(address=address)
        return self._run(Operation("Leave", request, _read_left, True, "leave", address.encode()))

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
        )
        for node in response.nodes
    ]
    return RingView(response.epoch, nodes)


def _read_owner(response: pb.OwnerResponse) -> Ownership:
    return Ownership(response.slot, response.address, response.successor, response.epoch, response.owned_since)


def _read_stats(response: pb.StatsResponse) -> list[NodeStats]:
    return [NodeStats(node.address, dict(node.values), node.not_ready, node.error) for node in response.nodes]


def _read_left(response: pb.LeaveResponse) -> bool:
    return response.successful
