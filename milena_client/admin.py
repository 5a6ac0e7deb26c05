"""Coordination. Looking at a cluster and changing its ring: what operators do, and programs do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from milena_client.core import operations
from milena_client.core.calls import DEFAULT_TIMEOUT, FLUSH_TIMEOUT, Caller, Retries
from milena_client.core.operations import Operation
from milena_client.core.options import ADMIN, Options, reduced
from milena_client.core.retry import DEFAULT_RETRY, RetryPolicy
from milena_client.core.url import DEFAULT_ADDRESS, as_target
from milena_client.core.values import Flushed, Key, checked_bucket, encode_key, key_list
from milena_common.api.errors import InvalidRequest
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import MissingNode
from milena_common.rpc.channel import GrpcTransport
from milena_common.rpc.transport import Transport
from milena_common.runtime.blocking_clock import BlockingClock, BlockingSystemClock


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
    - `dead_letters`: further ones, which S3 refuses for good.
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
    """What one node counts.

    - `address`: the node.
    - `values`: its numbers by name: hits, misses, entries, bytes, s3_gets and so on.
    - `not_ready`: why it is not ready; "" if it is.
    - `error`: why the router got no answer from it; "" if it did.
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

    It is a dead letter, which S3 refuses for good, or stuck: its uploads fail while others succeed.

    - `key`: its key.
    - `bucket`: its bucket; "" is the default one.
    - `operation`: "put" or "delete".
    - `size`: bytes of the value.
    - `version`: the name of this write in journal and logs.
    - `reason`: what S3 answered.
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
    - `total`: how many there are, also beyond the limit that was asked for.
    """

    writes: list[FailedWrite]
    total: int


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What `Admin.refresh` returns.

    - `refreshed`: how many copies were dropped.
    - `dirty`: how many objects were kept, because S3 does not have them yet.
    """

    refreshed: int
    dirty: int


def problems(stats: list[NodeStats], nodes: Iterable[Node] = ()) -> list[str]:
    """Return what is wrong with the nodes of `stats`, a line each; none if all are ready and none is degraded.

    `nodes` say what those reported last that do not answer now.
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
    """What a node that cannot be asked has reported last."""
    if not error or node is None or node.dirty_entries is None:
        return ""
    return f"; it last reported {node.dirty_entries + node.dead_letters} acknowledged writes not in S3"


class Admin:
    """The operator's calls to the router at `address`. Thread-safe.

    Parameters and errors are those of `Milena`. The `direct` of a URL does not matter: all calls go to the router.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        bucket: str = "",
        timeout: float | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
        transport: Transport | None = None,
        clock: BlockingClock | None = None,
    ) -> None:
        target = as_target(address)
        address = self.address = target.address
        bucket = self._bucket = checked_bucket(bucket or target.bucket)
        timeout = target.seconds(timeout, DEFAULT_TIMEOUT)
        self.options = Options(bucket, timeout, retry, replaced=transport is not None or clock is not None)
        retries = Retries(timeout, retry)
        self._transport = transport or GrpcTransport(address)
        self._run = Caller(self._transport, retries, clock or BlockingSystemClock()).run

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self, self.address, self.options, ADMIN)

    def nodes(self) -> RingView:
        """Return the nodes of the ring, by address."""
        return self._run(Operation("Nodes", pb.NodesRequest(), _read_nodes, True, "nodes"))

    def owner(self, key: Key) -> Ownership:
        """Return which node owns `key`. Raises InvalidRequest for a key that can never be one."""
        encoded = encode_key(key)
        request = pb.OwnerRequest(key=encoded, bucket=self._bucket)
        return self._run(Operation("Owner", request, _read_owner, True, "owner", encoded))

    def stats(self) -> list[NodeStats]:
        """Return what every node of the ring counts. One that does not answer raises nothing: it has an `error`."""
        return self._run(Operation("Stats", pb.StatsRequest(), _read_stats, True, "stats"))

    def leave(self, address: str, *, forget: bool = False) -> bool:
        """Take the node at `address` out of the ring, and return True; False if it is not in it.

        A node that is still running joins again within a third of its lease: stop it first. With `forget`, write
        off the missing node that was at `address`: it is no longer shown, and no node of the ring is touched.
        """
        request = pb.LeaveRequest(address=address, forget=forget)
        return self._run(Operation("Leave", request, _read_left, True, "leave", address.encode()))

    def flush(self, keys: Iterable[Key] = (), *, timeout: float = FLUSH_TIMEOUT) -> Flushed:
        """Wait as `Milena.flush` does, for at most `timeout` seconds; with `keys`, for their writes alone."""
        return self._run(operations.flush(key_list(keys), self._bucket), timeout)

    def refresh(self, keys: Iterable[Key] = (), *, prefix: Key | None = None) -> Refreshed:
        """Drop the nodes' clean copies of `keys`, or of all keys that begin with `prefix`: the next read asks S3.

        S3 is not touched, and what is dirty is kept. Raises InvalidRequest for both, or neither, of `keys` and
        `prefix`; Unavailable if a node that is concerned does not answer, after the others have done it.
        """
        encoded = [encode_key(key) for key in key_list(keys)]
        if bool(encoded) == (prefix is not None):
            raise InvalidRequest("keys, prefix: refresh wants one of them")
        below = prefix.encode() if isinstance(prefix, str) else prefix or b""
        request = pb.RefreshRequest(keys=encoded, bucket=self._bucket, prefix=below)
        return self._run(Operation("Refresh", request, _read_refreshed, True, "refresh"))

    def failed(self, limit: int = 1000) -> DeadLetters:
        """Return at most `limit` dead letters and stuck writes of all nodes and buckets.

        This, `flush`, `retry` and `drop` raise Unavailable if a node of the ring does not answer.
        """
        if not 0 < limit < 2**32:
            raise InvalidRequest(f"limit: got {limit}; allowed are 1 and more")
        return self._run(
            Operation("ListDeadLetters", pb.ListDeadLettersRequest(limit=limit), _read_failed, True, "failed")
        )

    def retry(self, keys: Iterable[Key] = (), *, all: bool = False) -> int:
        """Upload the failed writes of `keys`, or `all` of them, again at once; return how many there were.

        For the time after the cause, such as the bucket's policy, was mended. Raises InvalidRequest for both, or
        neither, of `keys` and `all`.
        """
        return self._resolve("retry", keys, all)

    def drop(self, keys: Iterable[Key] = (), *, all: bool = False) -> int:
        """Delete the failed writes of `keys`, or `all` of them, for good; return how many there were.

        Reads then return what S3 has. Raises InvalidRequest for both, or neither, of `keys` and `all`.
        """
        return self._resolve("drop", keys, all)

    def _resolve(self, action: Literal["retry", "drop"], keys: Iterable[Key], all: bool) -> int:
        encoded = [encode_key(key) for key in key_list(keys)]
        if all == bool(encoded):
            raise InvalidRequest(f"keys, all: {action} wants one of them: some keys, or all failed writes")
        request = pb.ResolveDeadLettersRequest(
            action=action, keys=encoded, bucket="" if all else self._bucket, all=all
        )
        # A repeated drop could take with it a write that has failed in between.
        return self._run(Operation("ResolveDeadLetters", request, _read_settled, action == "retry", action))

    def close(self) -> None:
        """Close the connection."""
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


def _read_settled(response: pb.ResolveDeadLettersResponse) -> int:
    return response.resolved


def _read_left(response: pb.LeaveResponse) -> bool:
    return response.successful
