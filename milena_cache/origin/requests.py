"""Coordination. S3 with attempts, a limit on requests in hand, and counts of every request.

Both clients are set to a single attempt, and every attempt is counted here. A failed read is repeated with
jittered backoff where repeating can help. Writes are not: what to do after a failed one depends on what it left
behind, which is for `upload` to find out.

A read that S3 does not begin to answer is hedged: the same read is sent on a connection of its own, and the first
answer counts. A connection may have died without a sign (a firewall forgot it, a load balancer was replaced), and
an answer may be lost; the reader waits for neither. Once the head of the answer has come, the transfer is left
alone however long it takes, as long as bytes move. Writes are never hedged: two of them could both take effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Any, TypeVar

from milena_cache.objects.object_store import (
    NO_ATTRIBUTES,
    NO_METADATA,
    Absent,
    Fault,
    Info,
    ObjectStore,
    OriginFailure,
    Page,
    Ref,
    Stored,
    ignore,
)
from milena_common.api.errors import MilenaError, OriginUnavailable
from milena_common.metrics.histogram import Histogram
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock

T = TypeVar("T")

# One request to a store; the second argument is to be called when S3 begins to answer.
Once = Callable[[ObjectStore, Callable[[], None]], Awaitable[T]]

BACKOFF = Backoff(first=0.05, max_delay=2.0)
# Reads: sending them twice changes nothing.
HEDGED = frozenset(("get", "head", "list", "bucket"))
# After these the same connection, or one as old, is not tried again.
BROKEN = frozenset((Fault.CONNECT, Fault.TIMEOUT, Fault.INCOMPLETE))
# Seconds between two times that idle connections are given up.
RECONNECT_SECONDS = 5.0
OPERATIONS = ("get", "head", "put", "copy", "delete", "list", "bucket")


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
        """Requests of these operations, all if none is named."""
        return sum(n for (name, _), n in self.requests.items() if not operations or name in operations)


class Origin:
    """A store with `retries` further attempts for reads, and `concurrency` requests at once.

    Reads and writes have that many places each, so that a flood of reads does not keep writes waiting. A request
    waits for its place at most `place_timeout` seconds. `last_success` is when S3 last answered, if only to refuse
    something about one object, in monotonic seconds; 0 if it never did.

    `fresh` reaches the same S3, on a new connection for each request. It gets the second request of a read that is
    not being answered after `hedge_after` seconds, and what is repeated because of its connection.
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
        # Called with the metadata of each object that S3 turns out to hold.
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
        self._place_timeout = place_timeout

    async def _attempts(
        self,
        operation: str,
        ref: Ref,
        once: Once[T],
        code_of: Callable[[T], str] = lambda _: "200",
        *,
        writing: bool = False,
        deadline: float = inf,
    ) -> T:
        places = self._places_to_write if writing else self._places_to_read
        retries = 0 if writing else self._retries
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
            code = "200"  # an answer that the node does not want: too large
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
        """Send a read, and once more on a fresh connection if S3 does not begin to answer; the first answer counts.

        The second request takes a place of its own, if one is free: an S3 that is slow because it is overloaded
        gets no more than S3_CONCURRENCY requests. Raises what the last of the two failed with.
        """
        began = asyncio.Event()
        first = asyncio.create_task(self._request(store, operation, once, code_of, began.set))
        second: asyncio.Task[T] | None = None
        try:
            await asyncio.wait((first,), timeout=self._hedge_after)
            if first.done() or began.is_set() or places.locked():
                return await first
            await places.acquire()
            try:
                second = asyncio.create_task(self._request(self._fresh, operation, once, code_of, ignore))
                response, by = await _first_response(first, second)
            finally:
                places.release()
            if by is second and store is self._store and not began.is_set():
                self._reconnect()
            return response
        finally:
            for task in (first, second):
                if task is not None and not task.cancel() and not task.cancelled():
                    task.exception()  # the other one's answer counts; this is no event for the log

    def _reconnect(self) -> None:
        """Do without the idle connections: one of them gave no answer where a new one did."""
        now = self.clock.now()
        if now >= self._next_reconnect:
            self._next_reconnect = now + RECONNECT_SECONDS
            self._store.reconnect()

    async def _take(self, places: asyncio.Semaphore, operation: str, ref: Ref, deadline: float) -> None:
        """Wait for a place among the requests in hand, though not for ever: S3 may be hanging."""
        try:
            if places.locked():
                async with asyncio.timeout(self._place_timeout):
                    await places.acquire()
            else:
                await places.acquire()  # at once; a timer would be a tenth of an upload's processor time
        except TimeoutError:
            code = "S3_CONCURRENCY requests are in hand already"
            raise OriginFailure(Fault.THROTTLED, operation, ref, code, "local") from None
        if self.clock.now() >= deadline:
            places.release()
            raise OriginFailure(Fault.CONNECT, operation, ref, "not sent: its caller gave up", "local")

    async def get(self, ref: Ref, *, if_none_match: str = "", max_bytes: int) -> Stored | Absent:
        response = await self._attempts(
            "get",
            ref,
            lambda store, began: store.get(ref, if_none_match=if_none_match, max_bytes=max_bytes, began=began),
            _code_of_get,
        )
        if isinstance(response, Stored):
            self.counts.bytes_read += len(response.value)
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
        """As `head`, as a step of a write: one attempt, not begun after `deadline`."""
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
        """As `ObjectStore.put`: one attempt, not begun after `deadline` (monotonic seconds)."""
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
        """As `look`, with the object's attributes and the time of day at S3."""
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
        """As `ObjectStore.copy`: one attempt, not begun after `deadline`."""
        return await self._attempts(
            "copy",
            ref,
            lambda store, _: store.copy(ref, if_match=if_match, metadata=metadata, attributes=attributes),
            writing=True,
            deadline=deadline,
        )

    async def delete(self, ref: Ref, deadline: float, *, if_match: str = "") -> None:
        """As `ObjectStore.delete`: one attempt, not begun after `deadline`."""
        await self._attempts(
            "delete",
            ref,
            lambda store, _: store.delete(ref, if_match=if_match),
            writing=True,
            deadline=deadline,
        )

    async def list(self, bucket: str, prefix: str, cursor: str, limit: int) -> Page:
        return await self._attempts(
            "list", Ref(bucket, prefix), lambda store, _: store.list(bucket, prefix, cursor, limit)
        )

    async def check_bucket(self, bucket: str) -> None:
        await self._attempts("bucket", Ref(bucket, ""), lambda store, _: store.check_bucket(bucket))

    async def close(self) -> None:
        await asyncio.gather(self._store.close(), self._fresh.close())


async def _first_response(first: asyncio.Task[T], second: asyncio.Task[T]) -> tuple[T, asyncio.Task[T]]:
    """Return the answer that comes first, and the request that brought it. Raises what both failed with.

    A failure that may pass is no answer as long as the other request may still bring one.
    """
    queued = {first, second}
    while True:
        done, queued = await asyncio.wait(queued, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if not queued or not isinstance(error, OriginFailure) or not error.fault.retryable:
                return task.result(), task


def _code_of_head(response: Info | None) -> str:
    return "200" if response else "404"


def _code_of_get(response: Stored | Absent) -> str:
    if isinstance(response, Stored):
        return "200"
    return "304" if response is Absent.NOT_MODIFIED else "404"


async def within(asking: Awaitable[T], timeout: float, what: str) -> T:
    """Return S3's answer, which must come within `timeout` seconds. Raises its failures as Milena's errors."""
    try:
        return await asyncio.wait_for(asking, timeout)
    except TimeoutError:
        raise OriginUnavailable(f"{what}: no answer within {timeout:.3g} s") from None
    except OriginFailure as failure:
        raise failure.as_error() from None
