"""Pure. A whole cluster as a dict: the responses of the router, without network, nodes or S3. For tests.

It checks keys and conditions as a router and its nodes do, so that a program that passes with it passes with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

from google.protobuf.message import Message

from milena_client.core.values import KeyT, Value, encode_key, encode_value
from milena_common.api.byte_range import ByteRange
from milena_common.api.durability import BACK, check_condition, check_durability
from milena_common.api.errors import ConditionFailed, FailedPrecondition, InvalidRequest, MilenaError
from milena_common.api.etags import etag_of
from milena_common.api.keys import cache_key, canonical_bucket, check_key
from milena_common.api.methods import (
    COPY,
    DELETE,
    FLUSH,
    GET,
    HOT_KEYS,
    LEAVE,
    LIST,
    LIST_DEAD_LETTERS,
    NODES,
    OWNER,
    PUT,
    REFRESH,
    RESOLVE_DEAD_LETTERS,
    SIZE,
    STATS,
    SWEEP,
    UPLOAD,
    WARM,
    ApiMethod,
)
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slots import SLOTS, slot_of

NODE = "127.0.0.1:50051"
_PAGE = 1000


class MemoryCluster:
    """A cluster with one node: responds to the router's methods from a dict, and fails on request.

    `now` gives seconds, for the age of cached entries.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._objects: dict[bytes, dict[bytes, bytes]] = {}  # bucket → key → value
        self._cached: dict[bytes, float] = {}  # cache key → when it was read or written
        self._expires_at: dict[bytes, float] = {}  # cache key → when the object expires
        self._hits = 0
        self._misses = 0
        self._failure: MilenaError | None = None
        self._failures_left: int | None = 0
        self._members = [NODE]
        self._uploads: dict[tuple[bytes, str], bytes] = {}  # by key and name
        self.closed = False
        handlers: Mapping[ApiMethod, Callable[[Any], Message]] = {
            GET: self._get,
            PUT: self._put,
            DELETE: self._delete,
            UPLOAD: self._upload,
            COPY: self._copy,
            LIST: self._list,
            LEAVE: self._leave,
            NODES: self._nodes,
            OWNER: self._owner,
            STATS: self._stats,
            SIZE: self._size,
            HOT_KEYS: self._hot_keys,
            FLUSH: self._flush,
            LIST_DEAD_LETTERS: self._list_dead_letters,
            RESOLVE_DEAD_LETTERS: self._resolve_dead_letters,
            REFRESH: self._refresh,
            SWEEP: self._sweep,
            WARM: self._warm,
        }
        self._methods = {method.name: handler for method, handler in handlers.items()}

    def add(self, objects: Mapping[KeyT, Value]) -> None:
        """Put objects into the default bucket without writing them through the cache: their first get misses."""
        bucket = self._objects.setdefault(b"", {})
        bucket.update({encode_key(key): encode_value(value) for key, value in objects.items()})

    def fail_with(self, error: MilenaError, times: int | None) -> None:
        """Fail the next `times` calls, all if None."""
        self._failure, self._failures_left = error, times

    def respond(self, method: str, request: Any) -> Message:
        """Return the response that the router would give. Raises MilenaError as it would."""
        if self.closed:
            raise FailedPrecondition("this client is closed")
        if self._failure is not None and self._failures_left != 0:
            if self._failures_left is not None:
                self._failures_left -= 1
            raise self._failure
        response: Message = self._methods[method](request)
        return response

    def _bucket(self, name: str) -> tuple[str, dict[bytes, bytes]]:
        canonical = canonical_bucket(name, "")
        return canonical, self._objects.setdefault(canonical.encode(), {})

    def _existing(self, bucket: str, key: bytes) -> bytes | None:
        """Return the value of a key, unless its object has expired."""
        objects = self._objects[bucket.encode()]
        entry_key = cache_key(bucket, key)
        if self._expires_at.get(entry_key, self._now() + 1) <= self._now():
            del self._expires_at[entry_key]
            objects.pop(key, None)
        return objects.get(key)

    def _get(self, request: pb.GetRequest) -> pb.GetResponse:
        check_key(request.key)
        bucket, _ = self._bucket(request.bucket)
        entry_key = cache_key(bucket, request.key)
        value = self._existing(bucket, request.key)
        hit = entry_key in self._cached
        self._hits += hit
        self._misses += not hit
        since = self._cached.setdefault(entry_key, self._now())
        if value is None:
            return pb.GetResponse(successful=False, outcome="negative_hit" if hit else "miss", node=NODE)
        _check_conditions(value, request.if_match, "")
        part = b"" if request.metadata_only else ByteRange(request.offset, request.length).of(value)
        return pb.GetResponse(
            successful=True,
            value=part,
            outcome="hit" if hit else "miss",
            age_seconds=self._now() - since,
            etag=etag_of(value),
            node=NODE,
            size=len(value),
            ttl_ms=ceil((self._expires_at[entry_key] - self._now()) * 1000) if entry_key in self._expires_at else 0,
        )

    def _put(self, request: pb.PutRequest) -> pb.PutResponse:
        check_key(request.key)
        reached = check_durability(request.durability) or BACK
        check_condition(request.if_match, request.if_none_match)
        bucket, objects = self._bucket(request.bucket)
        _check_conditions(self._existing(bucket, request.key), request.if_match, request.if_none_match)
        objects[request.key] = request.value
        entry_key = cache_key(bucket, request.key)
        self._cached[entry_key] = self._now()
        self._expires_at.pop(entry_key, None)
        if request.ttl_ms:
            self._expires_at[entry_key] = self._now() + request.ttl_ms / 1000
        return pb.PutResponse(successful=True, etag=etag_of(request.value), node=NODE, durability=reached)

    def _upload(self, request: pb.UploadRequest) -> pb.UploadResponse:
        name = request.key, request.upload
        if request.abort:
            self._uploads.pop(name, None)
            return pb.UploadResponse(successful=True, node=NODE)
        if request.offset and name not in self._uploads:
            raise FailedPrecondition("this upload is not known here; nothing was stored")
        received = self._uploads.get(name, b"")[: request.offset] + request.value
        if not request.complete:
            self._uploads[name] = received
            return pb.UploadResponse(successful=True, node=NODE, received=len(received))
        self._uploads.pop(name, None)
        put = self._put(
            pb.PutRequest(
                key=request.key,
                bucket=request.bucket,
                value=received,
                durability=request.durability,
                if_match=request.if_match,
                if_none_match=request.if_none_match,
            )
        )
        return pb.UploadResponse(
            successful=True, etag=put.etag, node=NODE, durability=put.durability, received=len(received)
        )

    def _copy(self, request: pb.CopyRequest) -> pb.CopyResponse:
        check_key(request.source_key)
        source, _ = self._bucket(request.source_bucket)
        target, _ = self._bucket(request.bucket)
        if (source, request.source_key) == (target, request.key):
            raise InvalidRequest("key: is that of the source; an object is not copied to itself")
        value = self._existing(source, request.source_key)
        if value is None:
            return pb.CopyResponse(node=NODE)
        _check_conditions(value, request.source_if_match, "")
        put = self._put(
            pb.PutRequest(
                key=request.key,
                bucket=request.bucket,
                value=value,
                durability=request.durability,
                if_match=request.if_match,
                if_none_match=request.if_none_match,
            )
        )
        return pb.CopyResponse(successful=True, etag=put.etag, node=NODE, durability=put.durability)

    def _delete(self, request: pb.DeleteRequest) -> pb.DeleteResponse:
        check_key(request.key)
        reached = check_durability(request.durability) or BACK
        check_condition(request.if_match, "")
        bucket, objects = self._bucket(request.bucket)
        _check_conditions(self._existing(bucket, request.key), request.if_match, "")
        objects.pop(request.key, None)
        self._expires_at.pop(cache_key(bucket, request.key), None)
        self._cached.pop(cache_key(bucket, request.key), None)
        return pb.DeleteResponse(successful=True, node=NODE, durability=reached)

    def _list(self, request: pb.ListRequest) -> pb.ListResponse:
        bucket, objects = self._bucket(request.bucket)
        after = request.cursor.encode()
        names = {
            key if at < 0 else key[: at + len(request.delimiter)]: at >= 0
            for key in [*objects]
            if self._existing(bucket, key) is not None and key.startswith(request.prefix)
            for at in [key.find(request.delimiter, len(request.prefix)) if request.delimiter else -1]
        }
        following = sorted(name for name in names if name > after)
        page = following[: request.limit or _PAGE]
        return pb.ListResponse(
            objects=[
                pb.ObjectInfo(key=key, size=len(objects[key]), etag=etag_of(objects[key]))
                for key in page
                if not names[key]
            ],
            prefixes=[name for name in page if names[name]],
            cursor=page[-1].decode() if len(page) < len(following) else "",
        )

    def _nodes(self, _: pb.NodesRequest) -> pb.NodesResponse:
        nodes = [
            pb.NodeInfo(address=address, node_id="fake", weight=1.0, slots=SLOTS, lease_remaining_seconds=5.0)
            for address in self._members
        ]
        return pb.NodesResponse(epoch=1, nodes=nodes)

    def _owner(self, request: pb.OwnerRequest) -> pb.OwnerResponse:
        check_key(request.key)
        slot = slot_of(cache_key(canonical_bucket(request.bucket, ""), request.key))
        return pb.OwnerResponse(slot=slot, address=(self._members or [""])[0], epoch=1, owned_since=1)

    def _size(self, _: pb.SizeRequest) -> pb.SizeResponse:
        """Return a node without reads: every size is large enough."""
        points = [
            pb.SizePoint(scale=scale, max_entries=1000 * scale, hit_ratio=1.0, sample=1.0)
            for scale in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
        ]
        nodes = [
            pb.NodeSize(address=address, seconds=60.0, hit_ratio=1.0, points=points) for address in self._members
        ]
        return pb.SizeResponse(nodes=nodes)

    def _hot_keys(self, _: pb.HotKeysRequest) -> pb.HotKeysResponse:
        """Return that nothing is hot: reads are not counted here."""
        return pb.HotKeysResponse(nodes=[pb.NodeHotKeys(address=address) for address in self._members])

    def _stats(self, _: pb.StatsRequest) -> pb.StatsResponse:
        values = {
            "hits": self._hits,
            "misses": self._misses,
            "requests": self._hits + self._misses,
            "entries": len(self._cached),
        }
        return pb.StatsResponse(nodes=[pb.NodeStats(address=address, values=values) for address in self._members])

    def _flush(self, _: pb.FlushRequest) -> pb.FlushResponse:
        return pb.FlushResponse()

    def _list_dead_letters(self, _: pb.ListDeadLettersRequest) -> pb.ListDeadLettersResponse:
        return pb.ListDeadLettersResponse()

    def _resolve_dead_letters(self, _: pb.ResolveDeadLettersRequest) -> pb.ResolveDeadLettersResponse:
        return pb.ResolveDeadLettersResponse()

    def _refresh(self, request: pb.RefreshRequest) -> pb.RefreshResponse:
        bucket, objects = self._bucket(request.bucket)
        keys = request.keys or [key for key in objects if key.startswith(request.prefix)]
        refreshed = {cache_key(bucket, key) for key in keys} & self._cached.keys()
        for entry_key in refreshed:
            del self._cached[entry_key]
        return pb.RefreshResponse(refreshed=len(refreshed))

    def _sweep(self, request: pb.SweepRequest) -> pb.SweepResponse:
        """Do a whole job in each call. Nothing is evicted here, so that to pin it has no effect."""
        if request.end:
            return pb.SweepResponse(done=True)
        bucket, objects = self._bucket(request.bucket)
        entries = len(self._cached)
        keys = {cache_key(bucket, key): key for key in objects if key.startswith(request.prefix)}
        changed = keys.keys() & self._cached.keys()
        size = sum(len(objects[keys[entry_key]]) for entry_key in changed)
        if not request.dry_run and request.action in ("purge", "invalidate"):
            for entry_key in changed:
                del self._cached[entry_key]
        return pb.SweepResponse(
            done=True,
            examined=entries,
            entries=entries,
            changed=len(changed),
            bytes=size,
            nodes=[pb.NodeSweep(address=NODE, done=True, changed=len(changed), bytes=size)],
        )

    def _warm(self, request: pb.WarmRequest) -> pb.WarmResponse:
        bucket, objects = self._bucket(request.bucket)
        response = pb.WarmResponse()
        for key in request.keys:
            check_key(key)
            entry_key = cache_key(bucket, key)
            if self._existing(bucket, key) is None:
                response.absent += 1
            elif entry_key in self._cached:
                response.present += 1
            else:
                response.warmed += 1
                response.value_bytes += len(objects[key])
                if not request.dry_run:
                    self._cached[entry_key] = self._now()
        response.nodes.add(
            address=NODE, warmed=response.warmed, value_bytes=response.value_bytes, room_entries=2**32
        )
        return response

    def _leave(self, request: pb.LeaveRequest) -> pb.LeaveResponse:
        known = request.address in self._members
        if known:
            self._members.remove(request.address)
        return pb.LeaveResponse(successful=known, epoch=2)


def _check_conditions(value: bytes | None, if_match: str, if_none_match: str) -> None:
    """Raise ConditionFailed unless the object with this value (None: there is none) meets the conditions."""
    if if_none_match and value is not None:
        raise ConditionFailed("if_none_match: there is such an object")
    if if_match and value is None:
        raise ConditionFailed("if_match: there is no such object")
    if if_match and value is not None and if_match != etag_of(value):
        raise ConditionFailed(f"if_match: the object's ETag is {etag_of(value)}, not {if_match}")
