"""Coordination. S3 with retries, a limit on requests in flight, and counts of every request.

Both clients make a single attempt, and every attempt is counted here. A failed read is retried with jittered
backoff if the failure may be transient. Writes are not: the step after a failed one depends on its effect in S3,
which the upload determines. Parts of an object are: until the last request of such an upload they have no effect.

A read whose response does not begin in time is hedged: the same read is sent on a new connection, and the first
response counts. A connection may have died silently (a firewall dropped it, a load balancer was replaced), and a
response may be lost; the reader waits for neither. Once the response headers have arrived, the transfer continues
as long as bytes arrive. Writes are never hedged: two of them could both take effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from typing import Any, TypeVar

from milena_cache.objects.object_store import (
    MAX_STREAMS,
    NO_ATTRIBUTES,
    NO_METADATA,
    Absent,
    Fault,
    Info,
    ObjectStore,
    OriginFailure,
    Page,
    PartStream,
    Ref,
    Stored,
    ignore,
)
from milena_cache.origin.hedging import Hedge
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import MilenaError, OriginUnavailable
from milena_common.api.uploads import PartsPage, UploadedPart, UploadsPage
from milena_common.metrics.histogram import Histogram
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock

T = TypeVar("T")

# One request to a store; it calls the second argument when the response headers have arrived.
Once = Callable[[ObjectStore, Callable[[], None]], Awaitable[T]]

BACKOFF = Backoff(first=0.05, max_delay=2.0)
# Reads, which are idempotent.
HEDGED = frozenset(("get", "head", "list", "bucket"))
# After these a retry uses a new connection.
BROKEN = frozenset((Fault.CONNECT, Fault.TIMEOUT, Fault.INCOMPLETE))
# The minimum of seconds between two times that idle connections are discarded.
RECONNECT_SECONDS = 5.0
OPERATIONS = ("get", "head", "put", "copy", "multipart", "part", "delete", "list", "bucket")


class OriginCounts:
    """Requests by (operation, code), seconds by operation, and bytes of values read and written."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], int] = {}
        self.durations = {operation: Histogram() for operation in OPERATIONS}
        self.bytes_read = 0
        self.bytes_written = 0

    def request(self, operation: str, code: str, seconds: float) -> None:
        self.requests[operation, code] = self.requests.get((operation, code), 0) + 1
        self.durations[operation].observe(seconds)

    def total(self, *operations: str) -> int:
        """Return the number of requests of these operations, of all if none is named."""
        return sum(n for (name, _), n in self.requests.items() if not operations or name in operations)


class Origin:
    """A store with up to `retries` retries for reads, and at most `concurrency` requests in flight.

    Reads and writes have separate limits, so that many reads do not delay writes. A request waits for its place at
    most `place_timeout` seconds. `last_success` is when S3 last responded, even with an error about one object, in
    monotonic seconds; 0 if it never did.

    `fresh` is the same S3, on a new connection for each request. It gets the second request of a read without
    response headers after `hedge_after` seconds, and retries after failures of a connection.
    """

    def __init__(
        self,
        store: ObjectStore,
        clock: Clock,
        rng: Callable[[], float],
        *,
        fresh: ObjectStore,
        retries: int,
        concurrency: int,
        place_timeout: float,
        hedge_after: float,
    ) -> None:
        self.counts = OriginCounts()
        # Called with the metadata of each object that is found in S3.
        self.observed: Callable[[Ref, Mapping[str, str]], None] = lambda ref, metadata: None
        self.last_success = 0.0
        self._store = store
        self._fresh = fresh
        self._hedge_after = hedge_after
        self._next_reconnect = -inf
        self.clock = clock
        self._rng = rng
        self._retries = retries
        self._places_to_read = asyncio.Semaphore(concurrency)
        self._places_to_write = asyncio.Semaphore(concurrency)
        # Of requests that last as long as a caller takes to send their bodies: they must not hold up uploads.
        self._places_to_stream = asyncio.Semaphore(min(concurrency, MAX_STREAMS))
        self._place_timeout = place_timeout

    async def _attempts(
        self,
        operation: str,
        ref: Ref,
        once: Once[T],
        code_of: Callable[[T], str] = lambda _: "200",
        *,
        writing: bool = False,
        repeatable: bool = False,
        streaming: bool = False,
        deadline: float = inf,
    ) -> T:
        places = self._places_to_write if writing else self._places_to_read
        if streaming:
            places = self._places_to_stream
        retries = 0 if writing and not repeatable else self._retries
        failures = 0
        store = self._store
        while True:
            await self._take(places, operation, ref, deadline)
            try:
                if operation in HEDGED:
                    return await self._hedged(store, operation, once, code_of, places)
                return await self._request(store, operation, once, code_of, ignore)
            except OriginFailure as failure:
                failures += 1
                if not failure.fault.retryable or failures > retries:
                    raise
                store = self._fresh if failure.fault in BROKEN else self._store
            finally:
                places.release()
            await self.clock.sleep(BACKOFF.delay(failures, self._rng))

    async def _request(
        self,
        store: ObjectStore,
        operation: str,
        once: Once[T],
        code_of: Callable[[T], str],
        began: Callable[[], None],
    ) -> T:
        """Send one request, and count it."""
        started = self.clock.now()
        code = "cancelled"
        try:
            response = await once(store, began)
            code = code_of(response)
            self.last_success = self.clock.now()
            return response
        except MilenaError:
            code = "200"  # a response that the node rejects: too large
            self.last_success = self.clock.now()
            raise
        except OriginFailure as failure:
            code = failure.status
            if failure.fault.of_object:
                self.last_success = self.clock.now()
            raise
        finally:
            self.counts.request(operation, code, self.clock.now() - started)

    async def _hedged(
        self,
        store: ObjectStore,
        operation: str,
        once: Once[T],
        code_of: Callable[[T], str],
        places: asyncio.Semaphore,
    ) -> T:
        """Send a read, and once more on a new connection if its response does not begin; the first response counts.

        The second request takes a place of its own, if one is free: an overloaded S3 gets no more than
        S3_CONCURRENCY requests. Raises the failure of the last of the two.
        """

        async def again() -> T:
            async with places:
                return await self._request(self._fresh, operation, once, code_of, ignore)

        hedge = Hedge(again, lambda: not places.locked(), self._hedge_after)
        response, by_second = await hedge.first_result(
            self._request(store, operation, once, code_of, hedge.has_begun)
        )
        if by_second and store is self._store and not hedge.began:
            self._reconnect()
        return response

    def _reconnect(self) -> None:
        """Discard the idle connections: one of them brought no response where a new one did."""
        now = self.clock.now()
        if now >= self._next_reconnect:
            self._next_reconnect = now + RECONNECT_SECONDS
            self._store.reconnect()

    async def _take(self, places: asyncio.Semaphore, operation: str, ref: Ref, deadline: float) -> None:
        """Wait, up to `place_timeout`, for a place among the requests in flight: S3 may be hanging."""
        try:
            if places.locked():
                async with asyncio.timeout(self._place_timeout):
                    await places.acquire()
            else:
                await places.acquire()  # at once; a timer would be a tenth of an upload's processor time
        except TimeoutError:
            code = "S3_CONCURRENCY requests are in flight already"
            raise OriginFailure(Fault.THROTTLED, operation, ref, code, "local") from None
        if self.clock.now() >= deadline:
            places.release()
            raise OriginFailure(Fault.CONNECT, operation, ref, "not sent: its caller gave up", "local")

    async def get(
        self,
        ref: Ref,
        *,
        if_none_match: str = "",
        if_match: str = "",
        byte_range: ByteRange | None = None,
        max_bytes: int,
    ) -> Stored | Absent:
        response = await self._attempts(
            "get",
            ref,
            lambda store, began: store.get(
                ref,
                if_none_match=if_none_match,
                if_match=if_match,
                byte_range=byte_range,
                max_bytes=max_bytes,
                began=began,
            ),
            _code_of_get,
        )
        if isinstance(response, Stored):
            self.counts.bytes_read += len(response.content)
            self.observed(ref, response.metadata)
        return response

    async def head(self, ref: Ref) -> Info | None:
        found = await self._attempts("head", ref, lambda store, _: store.head(ref), _code_of_head)
        return self._seen(ref, found)

    def _seen(self, ref: Ref, found: Info | None) -> Info | None:
        if found is not None:
            self.observed(ref, found.metadata)
        return found

    async def look(self, ref: Ref, deadline: float) -> Info | None:
        """Do `head` as a step of a write: one attempt, not started after `deadline`."""
        found = await self._attempts(
            "head", ref, lambda store, _: store.head(ref), _code_of_head, writing=True, deadline=deadline
        )
        return self._seen(ref, found)

    async def put(
        self,
        ref: Ref,
        value: bytes,
        deadline: float,
        *,
        if_match: str = "",
        if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
        attributes: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> str:
        """Do `ObjectStore.put`: one attempt, not started after `deadline` (monotonic seconds)."""
        etag = await self._attempts(
            "put",
            ref,
            lambda store, _: store.put(
                ref, value, if_match=if_match, if_absent=if_absent, metadata=metadata, attributes=attributes
            ),
            writing=True,
            deadline=deadline,
        )
        self.counts.bytes_written += len(value)
        return etag

    async def describe(self, ref: Ref, deadline: float) -> Info | None:
        """Do `look`, with the object's attributes and S3's time of day."""
        found = await self._attempts(
            "head", ref, lambda store, _: store.describe(ref), _code_of_head, writing=True, deadline=deadline
        )
        return self._seen(ref, found)

    async def copy(
        self,
        ref: Ref,
        deadline: float,
        *,
        if_match: str = "",
        metadata: Mapping[str, str],
        attributes: Mapping[str, Any],
    ) -> str:
        """Do `ObjectStore.copy`: one attempt, not started after `deadline`."""
        return await self._attempts(
            "copy",
            ref,
            lambda store, _: store.copy(ref, if_match=if_match, metadata=metadata, attributes=attributes),
            writing=True,
            deadline=deadline,
        )

    async def create_multipart(
        self,
        ref: Ref,
        deadline: float,
        *,
        metadata: Mapping[str, str] = NO_METADATA,
        attributes: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> str:
        """Do `ObjectStore.create_multipart`, not started after `deadline`; an upload whose id was lost stays."""
        return await self._attempts(
            "multipart",
            ref,
            lambda store, _: store.create_multipart(ref, metadata=metadata, attributes=attributes),
            writing=True,
            repeatable=True,
            deadline=deadline,
        )

    async def upload_part(
        self, ref: Ref, upload: str, number: int, value: bytes | bytearray, deadline: float
    ) -> str:
        """Do `ObjectStore.upload_part`, with retries: the same part again has no other effect."""
        etag = await self._attempts(
            "part",
            ref,
            lambda store, _: store.upload_part(ref, upload, number, value),
            writing=True,
            repeatable=True,
            deadline=deadline,
        )
        self.counts.bytes_written += len(value)
        return etag

    async def stream_part(self, ref: Ref, upload: str, number: int, body: PartStream, deadline: float) -> str:
        """Do `ObjectStore.stream_part`, not started after `deadline`; repeated while nothing of it was read."""
        failures = 0
        while True:
            try:
                etag = await self._attempts(
                    "part",
                    ref,
                    lambda store, _: store.stream_part(ref, upload, number, body),
                    writing=True,
                    streaming=True,
                    deadline=deadline,
                )
            except OriginFailure as failure:
                failures += 1
                if body.started or not failure.fault.retryable or failures > self._retries:
                    raise
            else:
                self.counts.bytes_written += body.length
                return etag
            await self.clock.sleep(BACKOFF.delay(failures, self._rng))

    async def copy_part(
        self,
        ref: Ref,
        upload: str,
        number: int,
        source: Ref,
        byte_range: ByteRange,
        deadline: float,
        *,
        if_match: str = "",
    ) -> UploadedPart:
        """Do `ObjectStore.copy_part`, with retries: the same part again has no other effect."""
        return await self._attempts(
            "part",
            ref,
            lambda store, _: store.copy_part(ref, upload, number, source, byte_range, if_match=if_match),
            writing=True,
            repeatable=True,
            deadline=deadline,
        )

    async def list_parts(self, ref: Ref, upload: str, after: int, limit: int) -> PartsPage:
        return await self._attempts("list", ref, lambda store, _: store.list_parts(ref, upload, after, limit))

    async def list_uploads(
        self, bucket: str, prefix: str, delimiter: str, after: tuple[str, str], limit: int
    ) -> UploadsPage:
        return await self._attempts(
            "list",
            Ref(bucket, prefix),
            lambda store, _: store.list_uploads(bucket, prefix, delimiter, after, limit),
        )

    async def complete_multipart(
        self,
        ref: Ref,
        upload: str,
        etags: Sequence[str],
        deadline: float,
        *,
        numbers: Sequence[int] = (),
        if_match: str = "",
        if_absent: bool = False,
    ) -> str:
        """Do `ObjectStore.complete_multipart`: one attempt, not started after `deadline`."""
        return await self._attempts(
            "multipart",
            ref,
            lambda store, _: store.complete_multipart(
                ref, upload, etags, numbers=numbers, if_match=if_match, if_absent=if_absent
            ),
            writing=True,
            deadline=deadline,
        )

    async def abort_multipart(self, ref: Ref, upload: str, deadline: float) -> None:
        """Do `ObjectStore.abort_multipart`, with retries, not started after `deadline`."""
        await self._attempts(
            "multipart",
            ref,
            lambda store, _: store.abort_multipart(ref, upload),
            writing=True,
            repeatable=True,
            deadline=deadline,
        )

    async def delete(self, ref: Ref, deadline: float, *, if_match: str = "") -> None:
        """Do `ObjectStore.delete`: one attempt, not started after `deadline`."""
        await self._attempts(
            "delete",
            ref,
            lambda store, _: store.delete(ref, if_match=if_match),
            writing=True,
            deadline=deadline,
        )

    async def list(
        self, bucket: str, prefix: str, cursor: str, limit: int, delimiter: str = "", after: str = ""
    ) -> Page:
        return await self._attempts(
            "list",
            Ref(bucket, prefix),
            lambda store, _: store.list(bucket, prefix, cursor, limit, delimiter, after),
        )

    async def check_bucket(self, bucket: str) -> None:
        await self._attempts("bucket", Ref(bucket, ""), lambda store, _: store.check_bucket(bucket))

    async def close(self) -> None:
        await asyncio.gather(self._store.close(), self._fresh.close())


_CODES_OF_ABSENT = {Absent.MISSING: "404", Absent.NOT_MODIFIED: "304", Absent.BEYOND_END: "416"}


def _code_of_head(response: Info | None) -> str:
    return "200" if response else "404"


def _code_of_get(response: Stored | Absent) -> str:
    if isinstance(response, Stored):
        return "200" if response.size is None else "206"
    return _CODES_OF_ABSENT[response]


async def within(asking: Awaitable[T], timeout: float, what: str) -> T:
    """Return S3's response within `timeout` seconds. Raises failures as Milena's errors."""
    try:
        return await asyncio.wait_for(asking, timeout)
    except TimeoutError:
        raise OriginUnavailable(f"{what}: no response within {timeout:.3g} s") from None
    except OriginFailure as failure:
        raise failure.as_error() from None
