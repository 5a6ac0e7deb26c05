"""Coordination. The router's S3 endpoint: which node gets a request, and what becomes of one whose node is lost.

Every node serves every key. The owner of the key is the best one, since its reply takes no further hop; without it
another one is asked.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, NamedTuple, Protocol

from milena_common.api.errors import MilenaError, NodeLost, NodeUnreachable
from milena_common.limits.token_bucket import TokenBucket, over_limit
from milena_common.network.security import Security
from milena_common.runtime.clock import Clock
from milena_common.s3.body.received import Body
from milena_common.s3.counts import EndpointCounts
from milena_common.s3.replies import Reply, error_reply
from milena_common.s3.wire.errors import S3Error, error_of
from milena_common.s3.wire.request import S3Request, operation_of

# Nodes that one request is sent to.
MAX_NODES: Final = 3
READS: Final = frozenset(("GET", "HEAD"))
# Seconds for a reply to begin: a write may wait for S3, which may copy hundreds of megabytes for it.
WRITE_SECONDS: Final = 300.0


class S3Node(NamedTuple):
    """The endpoint of a node.

    address: host:port
    security: what encrypts connections to it; None: they are plain
    server_name: the host that its certificate is for, "" for that of `address`
    """

    address: str
    security: Security | None = None
    server_name: str = ""


class Nodes(Protocol):
    """The nodes that have an endpoint."""

    async def nodes_for(self, bucket: str, key: bytes) -> list[S3Node]:
        """Return the nodes, first the owner of the key; in another order each time otherwise."""


class NodeClient(Protocol):
    """Sends requests to nodes."""

    async def send(self, node: S3Node, request: S3Request, body: Body, timeout: float) -> Reply:
        """Return the node's reply, which begins within `timeout` seconds after the body.

        Raises NodeUnreachable if nothing was sent, NodeLost if the node may have done it, ConnectionError if the
        client has ended the connection.
        """


class ForwardingEndpoint:
    """The endpoint. `timeout`: seconds of a request at a node; `domain` as for nodes."""

    def __init__(
        self,
        nodes: Nodes,
        client: NodeClient,
        limiter: TokenBucket,
        clock: Clock,
        *,
        domain: str,
        timeout: float,
        counts: EndpointCounts,
    ) -> None:
        self.counts = counts
        self._nodes = nodes
        self._client = client
        self._limiter = limiter
        self._clock = clock
        self._domain = domain
        # A read may ask S3 to confirm the object before.
        self._read_seconds = 2 * timeout + 1

    def handle(self, request: S3Request, body: Body) -> Reply | Coroutine[Any, Any, Reply]:
        """Return the reply, or a coroutine of it."""
        try:
            operation = operation_of(request, self._domain)
        except S3Error as error:
            self.counts.request("other")
            return error_reply(request, error)
        self.counts.request(operation.name)
        wait = self._limiter.take_tokens(self._clock.now())
        if wait:
            return error_reply(request, error_of(over_limit("the router's", self._limiter.rate, wait)))
        return self._forward(request, operation.bucket, operation.key, body)

    async def _forward(self, request: S3Request, bucket: str, key: bytes, body: Body) -> Reply:
        reads = request.method in READS and body.length == 0
        timeout = self._read_seconds if reads else WRITE_SECONDS
        lost = False
        try:
            nodes = await self._nodes.nodes_for(bucket, key)
        except MilenaError as error:
            return error_reply(request, error_of(error))
        text = "no node of the ring has an S3 endpoint; nothing was done"
        for node in nodes[:MAX_NODES]:
            try:
                return await self._client.send(node, request, body, timeout)
            except NodeUnreachable as error:
                text = f"{error}; nothing was done"
            except NodeLost as error:
                if not reads:
                    text = f"{error}; the write may or may not have been done"
                    return error_reply(request, S3Error("InternalError", text))
                text = str(error)
                if lost:
                    break
                lost = True
        return error_reply(request, S3Error("ServiceUnavailable", text))
