"""Coordination. The node's gRPC methods: messages in, calls of the policy, serialized messages out."""

from __future__ import annotations

from collections.abc import Mapping

from milena_cache.buckets import Buckets
from milena_cache.node import Node
from milena_cache.report import Report
from milena_common.deadlines import inner
from milena_common.grpc_door import Message, Method
from milena_common.pb import cache_server_pb2 as pb

SERVICE = "cache_server.Cache"
OPERATIONS = ("get", "put", "delete", "list", "stats", "forget")

MAX_LIST = 1000


class CacheService:
    """Every method takes a request and the caller's remaining seconds, and gives serialized answers."""

    def __init__(
        self,
        node: Node,
        buckets: Buckets,
        address: str,
        request_timeout: float,
        report: Report,
    ) -> None:
        self._node = node
        self._buckets = buckets
        self._address = address
        self._request_timeout = request_timeout
        self._report = report
        self.received_bytes = 0
        self.sent_bytes = 0

    def methods(self) -> Mapping[str, tuple[str, type[Message], Method]]:
        """The service's methods, for a `GrpcDoor`."""
        return {
            "Get": ("get", pb.GetRequest, self.get),
            "Put": ("put", pb.PutRequest, self.put),
            "Delete": ("delete", pb.DeleteRequest, self.delete),
            "List": ("list", pb.ListRequest, self.list),
            "Stats": ("stats", pb.StatsRequest, self.stats),
            "Forget": ("forget", pb.ForgetRequest, self.forget),
        }

    async def get(self, request: pb.GetRequest, remaining: float | None) -> bytes:
        wanted = self._buckets.resolve(request.bucket, request.key)
        if request.metadata_only:
            reply, size = await self._node.exists(wanted, self._timeout(remaining), request.owned_since)
        else:
            # A hit is answered without awaiting.
            reply = self._node.lookup(wanted, request.owned_since) or await self._node.get(
                wanted, self._timeout(remaining), request.owned_since
            )
            size = reply.entry.size
        entry = reply.entry
        value = b"" if request.metadata_only else entry.value or b""
        self.sent_bytes += len(value)
        return pb.GetResponse(
            successful=entry.value is not None,
            value=value,
            outcome=reply.outcome,
            age_seconds=reply.age,
            etag=entry.etag,
            node=self._address,
            size=size,
        ).SerializeToString()

    async def put(self, request: pb.PutRequest, remaining: float | None) -> bytes:
        wanted = self._buckets.resolve(request.bucket, request.key)
        self.received_bytes += len(request.value)
        etag = await self._node.put(wanted, request.value, self._timeout(remaining), request.owned_since)
        return pb.PutResponse(successful=True, etag=etag, node=self._address).SerializeToString()

    async def delete(self, request: pb.DeleteRequest, remaining: float | None) -> bytes:
        wanted = self._buckets.resolve(request.bucket, request.key)
        await self._node.delete(wanted, self._timeout(remaining), request.owned_since)
        return pb.DeleteResponse(successful=True, node=self._address).SerializeToString()

    async def list(self, request: pb.ListRequest, remaining: float | None) -> bytes:
        limit = min(request.limit or MAX_LIST, MAX_LIST)
        page = await self._node.list(
            request.bucket, request.prefix, request.cursor, limit, self._timeout(remaining)
        )
        objects = [
            pb.ObjectInfo(key=info.key.encode(), size=info.size, etag=info.etag, last_modified=info.last_modified)
            for info in page.objects
        ]
        return pb.ListResponse(objects=objects, cursor=page.cursor).SerializeToString()

    async def stats(self, _: pb.StatsRequest, __: float | None) -> bytes:
        return pb.StatsResponse(
            values=self._report.values(), not_ready="; ".join(self._report.not_ready())
        ).SerializeToString()

    async def forget(self, request: pb.ForgetRequest, _: float | None) -> bytes:
        self._node.forget(self._buckets.resolve(request.bucket, request.key))
        return pb.ForgetResponse(successful=True).SerializeToString()

    def _timeout(self, remaining: float | None) -> float:
        return inner(self._request_timeout if remaining is None else remaining)
