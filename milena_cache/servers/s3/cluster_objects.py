"""Coordination. The objects of all nodes, as the S3 endpoint of one node has them.

An object whose slot is this node's is read and written here, as by any other server. Another one is asked of its
owner by MILENA.CALL, over a connection of the cluster. What its caller may do was decided here, where it has logged
in. While a slot moves, requests wait for its new owner, within their time.

A read that loses the other node is sent once more; a write is not, since the lost node may have done it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from milena_cache.objects.names import ANY_BUCKET, Buckets, Object
from milena_cache.origin.requests import within
from milena_cache.reads.merged_page import Position
from milena_cache.service.requests import Got, Place, Requests
from milena_common.api.byte_range import ByteRange
from milena_common.api.durability import THROUGH
from milena_common.api.errors import (
    InternalError,
    MilenaError,
    Moved,
    NodeLost,
    NodeUnreachable,
    NoNodes,
    Overloaded,
    TryAgain,
    WrongNode,
)
from milena_common.api.keys import canonical_bucket
from milena_common.api.methods import DELETE, FLUSH, GET, LIST, PUT, REFRESH, UPLOAD, ApiMethod
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.api.properties import Properties
from milena_common.api.uploads import PartsPage, UploadedPart, UploadsPage
from milena_common.metrics.call_counts import CallCounts
from milena_common.resp.client_commands import call
from milena_common.runtime.clock import Clock
from milena_common.runtime.deadlines import inner
from milena_common.s3.objects import Found, Item, Listed, PartBody, Written

PAUSE_SECONDS: Final = 0.05
# The share of a conditional write's time for the upload of the key's write before it.
FLUSH_SHARE: Final = 0.5

T = TypeVar("T")


class Links(Protocol):
    """Connections to other nodes."""

    async def request(self, address: str, sent: bytes, timeout: float) -> Any:
        """Return the reply of the node whose RESP server is at `address`. Raises MilenaError."""


class ClusterObjects:
    """The objects; implements `milena_common.s3.objects.Objects`. `address`: this node's, for replies."""

    def __init__(
        self, requests: Requests, links: Links, buckets: Buckets, calls: CallCounts, clock: Clock, address: str
    ) -> None:
        self._requests = requests
        self._uploads = requests.client_uploads
        self._links = links
        self._buckets = buckets
        self._calls = calls
        self._clock = clock
        self._address = address

    def buckets(self) -> Sequence[str]:
        return sorted({self._buckets.default, *(name for name in self._buckets.others if name != ANY_BUCKET)})

    def serves(self, bucket: str) -> bool:
        buckets = self._buckets
        return bucket == buckets.default or bucket in buckets.others or ANY_BUCKET in buckets.others

    async def check_bucket(self, bucket: str, timeout: float) -> None:
        await self._requests.check_bucket(bucket, timeout)

    # ---- reads

    def read(
        self, bucket: str, key: bytes, byte_range: ByteRange, max_bytes: int, timeout: float, if_match: str = ""
    ) -> Found | Awaitable[Found]:
        bucket = self._named(bucket)
        began = self._clock.now()
        try:
            place = self._admitted(bucket, key, GET)
        except (Moved, NoNodes, TryAgain):
            return self._read_anywhere(bucket, key, byte_range, max_bytes, timeout, if_match)
        except MilenaError as error:
            self._counted(GET, began, error)
            raise
        try:
            got = self._requests.get_with_properties(place, timeout, byte_range, max_bytes, if_match=if_match)
        except MilenaError as error:
            self._counted(GET, began, error)
            raise
        if isinstance(got, tuple):
            self._counted(GET, began)
            return self._found(*got)
        return self._read_here(got, began)

    async def _read_here(self, reading: Awaitable[tuple[Got, Properties]], began: float) -> Found:
        return self._found(*await self._awaited(GET, reading, began))

    async def _read_anywhere(
        self, bucket: str, key: bytes, byte_range: ByteRange, max_bytes: int, timeout: float, if_match: str
    ) -> Found:
        request = pb.GetRequest(
            key=key,
            bucket=bucket,
            offset=byte_range.offset,
            length=byte_range.length,
            max_bytes=max_bytes,
            if_match=if_match,
            properties=True,
        )

        async def here(place: Place, seconds: float) -> Found:
            reading = self._requests.get_with_properties(place, seconds, byte_range, max_bytes, if_match=if_match)
            return self._found(*(reading if isinstance(reading, tuple) else await reading))

        return await self._at_owner(GET, bucket, key, request, here, _found_there, timeout)

    async def describe(self, bucket: str, key: bytes, timeout: float) -> Found:
        bucket = self._named(bucket)
        request = pb.GetRequest(key=key, bucket=bucket, metadata_only=True, properties=True)

        async def here(place: Place, seconds: float) -> Found:
            looking = self._requests.describe(place, seconds)
            return self._found(*(looking if isinstance(looking, tuple) else await looking))

        return await self._at_owner(GET, bucket, key, request, here, _found_there, timeout)

    def _found(self, got: Got, properties: Properties) -> Found:
        return Found(got.outcome, got.exists, got.value, got.size, got.etag, got.age, self._address, properties)

    async def confirm(self, bucket: str, key: bytes, timeout: float) -> None:
        bucket = self._named(bucket)

        async def here(_: Place, __: float) -> None:
            await self._requests.refresh(bucket, (key,), b"")

        def there(reply: bytes) -> None:
            pb.RefreshResponse.FromString(reply)

        request = pb.RefreshRequest(bucket=bucket, keys=[key])
        await self._at_owner(REFRESH, bucket, key, request, here, there, timeout)

    # ---- writes

    async def put(
        self,
        bucket: str,
        key: bytes,
        value: bytes,
        timeout: float,
        *,
        durability: str,
        if_match: str,
        if_none_match: str,
        properties: Properties,
    ) -> Written:
        bucket = self._named(bucket)
        deadline = self._clock.now() + timeout
        if if_match or if_none_match:
            # What S3 has must decide, since other programs write there. So S3 gets what is dirty first.
            await self._flush(bucket, key, timeout * FLUSH_SHARE)
            durability = THROUGH
        request = pb.PutRequest(
            key=key,
            bucket=bucket,
            value=value,
            durability=durability,
            if_match=if_match,
            if_none_match=if_none_match,
            headers=properties.headers,
            metadata=properties.metadata,
            exact_etag=True,
        )

        async def here(place: Place, seconds: float) -> Written:
            ack = await self._requests.put(
                place,
                value,
                seconds,
                durability=durability,
                if_match=if_match,
                if_none_match=if_none_match,
                ttl_ms=0,
                properties=properties,
                exact_etag=True,
            )
            return Written(ack.etag, ack.durability, self._address)

        def there(reply: bytes) -> Written:
            response = pb.PutResponse.FromString(reply)
            return Written(response.etag, response.durability, response.node)

        return await self._at_owner(PUT, bucket, key, request, here, there, deadline - self._clock.now())

    async def _flush(self, bucket: str, key: bytes, timeout: float) -> None:
        """Wait until S3 has the newest write of a key. Raises Overloaded if it does not get it in time."""

        async def here(_: Place, seconds: float) -> int:
            return (await self._requests.flush(bucket, (key,), seconds)).remaining

        def there(reply: bytes) -> int:
            return pb.FlushResponse.FromString(reply).remaining

        request = pb.FlushRequest(bucket=bucket, keys=[key])
        if await self._at_owner(FLUSH, bucket, key, request, here, there, timeout):
            raise Overloaded(
                "the object has a write that S3 does not have yet, so that a condition cannot be decided there; "
                "nothing was done"
            )

    async def delete(self, bucket: str, key: bytes, timeout: float, *, durability: str, if_match: str) -> Written:
        bucket = self._named(bucket)
        deadline = self._clock.now() + timeout
        if if_match:
            await self._flush(bucket, key, timeout * FLUSH_SHARE)
            durability = THROUGH
        request = pb.DeleteRequest(key=key, bucket=bucket, durability=durability, if_match=if_match)

        async def here(place: Place, seconds: float) -> Written:
            ack = await self._requests.delete(place, seconds, durability=durability, if_match=if_match)
            return Written("", ack.durability, self._address)

        def there(reply: bytes) -> Written:
            response = pb.DeleteResponse.FromString(reply)
            return Written("", response.durability, response.node)

        return await self._at_owner(DELETE, bucket, key, request, here, there, deadline - self._clock.now())

    # ---- uploads in parts: through this node to S3, and to the owner to be completed

    async def create_upload(self, bucket: str, key: bytes, timeout: float, *, properties: Properties) -> str:
        creating = self._uploads.create(self._target(bucket, key), inner(timeout), properties)
        return await self._awaited(UPLOAD, creating, self._clock.now())

    async def upload_part(
        self, bucket: str, key: bytes, upload: str, number: int, value: bytes | PartBody, timeout: float
    ) -> str:
        adding = self._uploads.add_part(self._target(bucket, key), upload, number, value, inner(timeout))
        etag = await self._awaited(UPLOAD, adding, self._clock.now())
        self._requests.received_bytes += len(value) if isinstance(value, bytes) else value.length
        return etag

    async def copy_part(
        self,
        bucket: str,
        key: bytes,
        upload: str,
        number: int,
        source: tuple[str, bytes],
        byte_range: ByteRange,
        timeout: float,
        *,
        if_match: str,
    ) -> UploadedPart:
        deadline = self._clock.now() + timeout
        await self._flush(self._named(source[0]), source[1], timeout * FLUSH_SHARE)
        copying = self._uploads.copy_part(
            self._target(bucket, key),
            upload,
            number,
            self._target(*source).ref,
            byte_range,
            inner(deadline - self._clock.now()),
            if_match,
        )
        return await self._awaited(UPLOAD, copying, self._clock.now())

    async def complete_upload(
        self,
        bucket: str,
        key: bytes,
        upload: str,
        parts: Sequence[UploadedPart],
        timeout: float,
        *,
        if_match: str,
        if_none_match: str,
    ) -> Written:
        bucket = self._named(bucket)
        deadline = self._clock.now() + timeout
        if if_match or if_none_match:
            await self._flush(bucket, key, timeout * FLUSH_SHARE)  # as in `put`
        request = pb.UploadRequest(
            key=key,
            bucket=bucket,
            store_upload=upload,
            parts=[pb.UploadedPart(number=part.number, etag=part.etag) for part in parts],
            if_match=if_match,
            if_none_match=if_none_match,
        )

        async def here(place: Place, seconds: float) -> Written:
            ack = await self._requests.complete_upload(
                place, upload, parts, seconds, if_match=if_match, if_none_match=if_none_match
            )
            return Written(ack.etag, ack.durability, self._address)

        def there(reply: bytes) -> Written:
            response = pb.UploadResponse.FromString(reply)
            return Written(response.etag, response.durability, response.node)

        return await self._at_owner(UPLOAD, bucket, key, request, here, there, deadline - self._clock.now())

    async def abort_upload(self, bucket: str, key: bytes, upload: str, timeout: float) -> None:
        aborting = self._uploads.abandon_upload(self._target(bucket, key), upload, inner(timeout))
        await self._awaited(UPLOAD, aborting, self._clock.now())

    async def list_parts(
        self, bucket: str, key: bytes, upload: str, after: int, limit: int, timeout: float
    ) -> PartsPage:
        listing = self._uploads.list_parts(self._target(bucket, key), upload, after, limit)
        return await self._awaited(LIST, within(listing, inner(timeout), "a listing of uploads"), self._clock.now())

    async def list_uploads(
        self, bucket: str, prefix: str, delimiter: str, after: tuple[str, str], limit: int, timeout: float
    ) -> UploadsPage:
        self._requests.admit()
        name = self._named(bucket)
        own = self._buckets.prefix_of(name)
        if after[0]:
            after = own + after[0], after[1]
        listing = self._uploads.list_uploads(name or self._buckets.default, own + prefix, delimiter, after, limit)
        page = await self._awaited(LIST, within(listing, inner(timeout), "a listing of uploads"), self._clock.now())
        return page.without_prefix(own)

    def _target(self, bucket: str, key: bytes) -> Object:
        """Admit a request that needs no owner, and return its object. Raises RateLimited, InvalidRequest."""
        self._requests.admit()
        return self._buckets.resolve(self._named(bucket), key)

    # ---- listings

    async def list_page(
        self, bucket: str, prefix: bytes, delimiter: bytes, cursor: str, after: str, limit: int, timeout: float
    ) -> Listed:
        began = self._clock.now()
        self._requests.admit()
        if not cursor and after:
            cursor = Position("", after).encode()
        listing = self._requests.list_page(self._named(bucket), prefix, cursor, limit, timeout, delimiter=delimiter)
        page = await self._awaited(LIST, listing, began)
        items = [Item(info.key, info.size, info.etag, info.last_modified) for info in page.objects]
        return Listed(items, page.prefixes, page.cursor)

    # ---- the owner of a key

    def _named(self, bucket: str) -> str:
        """Return a bucket's name as the node's API has it."""
        return canonical_bucket(bucket, self._buckets.default)

    def _admitted(self, bucket: str, key: bytes, method: ApiMethod) -> Place:
        """Return the place of an object of this node. Raises as `Requests.place`, and RateLimited."""
        requests = self._requests
        place = requests.place_to_read(bucket, key) if method is GET else requests.place(bucket, key)
        if requests.limiter.rate:
            requests.admit()
        return place

    async def _at_owner(
        self,
        method: ApiMethod,
        bucket: str,
        key: bytes,
        request: Any,
        here: Callable[[Place, float], Coroutine[Any, Any, T]],
        there: Callable[[bytes], T],
        timeout: float,
    ) -> T:
        """Return the result of a method on an object: of `here`, or of the owner's reply, by `there`.

        Raises the error of the last attempt when `timeout` seconds are over.
        """
        deadline = self._clock.now() + inner(timeout)
        lost = False
        while True:
            try:
                place = self._admitted(bucket, key, method)
            except Moved as moved:
                error: MilenaError = moved
                address = moved.address
            except (NoNodes, TryAgain) as waiting:
                error, address = waiting, ""
            else:
                remaining = max(0.001, deadline - self._clock.now())
                return await self._awaited(method, here(place, remaining), self._clock.now())
            if address:
                remaining = max(0.001, deadline - self._clock.now())
                sent = call(method.name, remaining, request.SerializeToString())
                try:
                    reply = await self._links.request(address, sent, remaining)
                    if not isinstance(reply, bytes):
                        raise InternalError(f"node {address}: its reply to {method.name} is {reply!r:.80}")
                    return there(reply)
                except (Moved, TryAgain, NoNodes, NodeUnreachable, WrongNode) as nothing_done:
                    error = nothing_done
                except NodeLost as failure:
                    if method.writes or lost:
                        raise
                    error, lost = failure, True
            if self._clock.now() + PAUSE_SECONDS >= deadline:
                raise error
            await self._clock.sleep(PAUSE_SECONDS)

    async def _awaited(self, method: ApiMethod, work: Awaitable[T], began: float) -> T:
        """Return the result of a method that this node carries out, and count it."""
        try:
            result = await work
        except MilenaError as error:
            self._counted(method, began, error)
            raise
        self._counted(method, began)
        return result

    def _counted(self, method: ApiMethod, began: float, error: MilenaError | None = None) -> None:
        counts = self._calls[method.operation]
        counts.requests += 1
        counts.durations.observe(self._clock.now() - began)
        if error is not None:
            counts.count_error(error.code)


def _found_there(reply: bytes) -> Found:
    response = pb.GetResponse.FromString(reply)
    headers: Mapping[str, str] = response.headers
    properties = Properties(response.last_modified, dict(headers), dict(response.metadata))
    return Found(
        response.outcome,
        response.successful,
        response.value,
        response.size,
        response.etag,
        response.age_seconds,
        response.node,
        properties,
    )
