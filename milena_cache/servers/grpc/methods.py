"""Coordination. The node's gRPC methods: messages in, calls of the policy, serialized messages out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from milena_cache.objects.expiry import NEVER, expires_after, remaining_ms
from milena_cache.objects.names import Buckets, Object
from milena_cache.reads.reader import Node, Reply
from milena_cache.service.status import Status
from milena_cache.writeback.loop import WriteBack
from milena_cache.writeback.unfinished import failed_writes
from milena_common.api.durability import check_condition, check_durability
from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import split_cache_key
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.token_bucket import TokenBucket, over_limit
from milena_common.rpc.server import Message, Method
from milena_common.runtime.clock import Clock
from milena_common.runtime.deadlines import inner

# A method with its operation's name for the counts and the class of its request.
Named = tuple[str, type[Message], Method]

SERVICE = "cache_server.Cache"
OPERATIONS = (
    "get",
    "put",
    "delete",
    "list",
    "stats",
    "invalidate",
    "flush",
    "list_dead_letters",
    "resolve_dead_letters",
    "refresh",
)

MAX_LIST = 1000
# What RATE_LIMIT counts: the objects' methods, not those of operators and of the router itself.
LIMITED = ("Get", "Put", "Delete", "List")


def limited(methods: Mapping[str, Named], limiter: TokenBucket, clock: Clock) -> Mapping[str, Named]:
    """`methods`, of which the objects' take a token of `limiter` first; without one they raise RateLimited."""

    def behind(method: Method) -> Method:
        async def admitted(request: Any, remaining: float | None) -> bytes:
            if wait := limiter.take(clock.now()):
                raise over_limit("this node's", limiter.rate, wait)
            return await method(request, remaining)

        return admitted

    return {
        name: (operation, request, behind(method) if name in LIMITED and limiter.rate else method)
        for name, (operation, request, method) in methods.items()
    }


class CacheService:
    """Every method takes a request and the caller's remaining seconds, and gives serialized answers."""

    def __init__(
        self,
        node: Node,
        writeback: WriteBack,
        buckets: Buckets,
        address: str,
        request_timeout: float,
        status: Status,
    ) -> None:
        self._node = node
        self._writeback = writeback
        self._buckets = buckets
        self._address = address
        self._request_timeout = request_timeout
        self._status = status
        self.received_bytes = 0
        self.sent_bytes = 0
        self._methods: Mapping[str, Named] = {
            "Get": ("get", pb.GetRequest, self.get),
            "Put": ("put", pb.PutRequest, self.put),
            "Delete": ("delete", pb.DeleteRequest, self.delete),
            "List": ("list", pb.ListRequest, self.list),
            "Stats": ("stats", pb.StatsRequest, self.stats),
            "Invalidate": ("invalidate", pb.InvalidateRequest, self.invalidate),
            "Flush": ("flush", pb.FlushRequest, self.flush),
            "ListDeadLetters": ("list_dead_letters", pb.ListDeadLettersRequest, self.list_dead_letters),
            "ResolveDeadLetters": ("resolve_dead_letters", pb.ResolveDeadLettersRequest, self.resolve_dead_letters),
            "Refresh": ("refresh", pb.RefreshRequest, self.refresh),
        }

    def methods(self) -> Mapping[str, Named]:
        """The service's methods, for its doors."""
        return self._methods

    async def get(self, request: pb.GetRequest, remaining: float | None) -> bytes:
        response = self.get_now(request)
        return await self.fetch(request, remaining) if response is None else response

    async def fetch(self, request: pb.GetRequest, remaining: float | None) -> bytes:
        """Return the answer to a Get for which `get_now` has none."""
        target = self._buckets.resolve(request.bucket, request.key)
        get = self._node.exists if request.metadata_only else self._get
        return self._got(request, *await get(target, self._timeout(remaining), request.owned_since))

    async def _get(self, target: Object, timeout: float, owned_since: int) -> tuple[Reply, int]:
        reply = await self._node.get(target, timeout, owned_since)
        return reply, reply.entry.size

    def size_in_memory(self, request: pb.GetRequest) -> int:
        """Bytes of the value that a Get would answer from memory; 0 if there is none. Raises as `get` does."""
        if request.metadata_only:
            return 0
        return self._node.size_in_memory(self._buckets.resolve(request.bucket, request.key))

    def get_now(self, request: pb.GetRequest, max_bytes: int | None = None) -> bytes | None:
        """The answer to a Get if it is in memory, else None; None too for a value of more than `max_bytes`.

        Raises as `get` does.
        """
        target = self._buckets.resolve(request.bucket, request.key)
        if max_bytes is not None and not request.metadata_only and self._node.size_in_memory(target) > max_bytes:
            return None
        reply = self._node.lookup(target, request.owned_since)
        return None if reply is None else self._got(request, reply, reply.entry.size)

    def _got(self, request: pb.GetRequest, reply: Reply, size: int) -> bytes:
        entry = reply.entry
        # What was fetched and not kept would have to be fetched again.
        omitted = 0 < request.max_bytes < size and not request.metadata_only and reply.outcome != "bypass"
        value = b"" if request.metadata_only or omitted else entry.value or b""
        self.sent_bytes += len(value)
        return pb.GetResponse(
            successful=entry.value is not None,
            value=value,
            outcome=reply.outcome,
            age_seconds=reply.age,
            etag=entry.etag,
            node=self._address,
            size=size,
            dirty=reply.dirty,
            ttl_ms=remaining_ms(entry.expires_at, self._node.clock.wall()) if entry.expires_at else 0,
            omitted=omitted,
        ).SerializeToString()

    async def put(self, request: pb.PutRequest, remaining: float | None) -> bytes:
        target = self._buckets.resolve(request.bucket, request.key)
        check_condition(request.if_match, request.if_none_match)
        value = request.value
        self.received_bytes += len(value)
        put = self._node.writes.put(
            target,
            value,
            self._timeout(remaining),
            owned_since=request.owned_since,
            durability=check_durability(request.durability),
            if_match=request.if_match,
            if_none_match=request.if_none_match,
            expires_at=expires_after(request.ttl_ms, self._node.clock.wall()) if request.ttl_ms else NEVER,
        )
        del request, value  # the request is another copy of the value
        ack = await put
        return pb.PutResponse(
            successful=True, etag=ack.etag, node=self._address, durability=ack.durability
        ).SerializeToString()

    async def delete(self, request: pb.DeleteRequest, remaining: float | None) -> bytes:
        target = self._buckets.resolve(request.bucket, request.key)
        check_condition(request.if_match, "")
        ack = await self._node.writes.delete(
            target,
            self._timeout(remaining),
            owned_since=request.owned_since,
            durability=check_durability(request.durability),
            if_match=request.if_match,
        )
        return pb.DeleteResponse(successful=True, node=self._address, durability=ack.durability).SerializeToString()

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
            values=self._status.values(),
            not_ready="; ".join(self._status.not_ready()),
            degraded=self._status.degraded(),
        ).SerializeToString()

    async def invalidate(self, request: pb.InvalidateRequest, _: float | None) -> bytes:
        self._node.invalidate(self._buckets.resolve(request.bucket, request.key))
        return pb.InvalidateResponse(successful=True).SerializeToString()

    async def refresh(self, request: pb.RefreshRequest, _: float | None) -> bytes:
        if request.keys and request.prefix:
            raise InvalidRequest("keys, prefix: allowed is one of them")
        if request.keys:
            done = await self._node.refresher.keys(self._cache_keys(request.bucket, request.keys))
        else:
            done = await self._node.refresher.matching(self._buckets.files_below(request.bucket, request.prefix))
        return pb.RefreshResponse(refreshed=done.refreshed, dirty=done.dirty).SerializeToString()

    async def flush(self, request: pb.FlushRequest, remaining: float | None) -> bytes:
        keys = self._cache_keys(request.bucket, request.keys) if request.keys else None
        done = await self._writeback.flush_waiters.wait_flushed(keys, self._timeout(remaining))
        return pb.FlushResponse(
            remaining=done.remaining, failed=done.failed, flushed=done.flushed
        ).SerializeToString()

    async def list_dead_letters(self, request: pb.ListDeadLettersRequest, _: float | None) -> bytes:
        failed = failed_writes(self._writeback, self._node.dirty, self._node.clock.now())
        writes = []
        for entry, reason, failed_at in failed[: request.limit or MAX_LIST]:
            bucket, key = split_cache_key(entry.key)
            writes.append(
                pb.FailedWrite(
                    key=key,
                    bucket=bucket,
                    operation="delete" if entry.deleted else "put",
                    size=entry.size,
                    version=str(entry.version),
                    reason=reason,
                    failed_at=failed_at,
                    node=self._address,
                )
            )
        return pb.ListDeadLettersResponse(writes=writes, total=len(failed)).SerializeToString()

    async def resolve_dead_letters(self, request: pb.ResolveDeadLettersRequest, _: float | None) -> bytes:
        if bool(request.keys) == request.all:
            raise InvalidRequest("keys, all: allowed is one of them, the keys of failed writes or all")
        keys = None if request.all else self._cache_keys(request.bucket, request.keys)
        match request.action:
            case "retry":
                retried = self._writeback.stuck.retry(keys) + await self._writeback.dead_letters.retry(keys)
            case "drop":
                retried = await self._writeback.stuck.drop(keys) + await self._writeback.dead_letters.drop(keys)
            case _:
                raise InvalidRequest(f"action: got {request.action[:80]!r}; allowed: retry, drop")
        return pb.ResolveDeadLettersResponse(resolved=retried).SerializeToString()

    def _cache_keys(self, bucket: str, keys: Iterable[bytes]) -> Sequence[bytes]:
        return [self._buckets.resolve(bucket, key).cache_key for key in keys]

    def _timeout(self, remaining: float | None) -> float:
        return inner(self._request_timeout if remaining is None else remaining)
