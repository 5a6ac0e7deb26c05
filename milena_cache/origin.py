"""Coordination. S3 with attempts, a limit on requests in hand, and counts of every request.

Both clients are set to a single attempt, and every attempt is counted here. A failed read is repeated with
jittered backoff where repeating can help. Writes are not: what to do after a failed one depends on what it left
behind, which is for `upload` to find out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Any, TypeVar

from milena_cache.store import (
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
)
from milena_common.backoff import Backoff
from milena_common.clock import Clock
from milena_common.errors import MilenaError
from milena_common.histogram import Histogram

T = TypeVar("T")

BACKOFF = Backoff(first=0.05, most=2.0)
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
    waits for its place at most `place_timeout` seconds.
    """

    def __init__(
        self,
        store: ObjectStore,
        clock: Clock,
        draw: Callable[[], float],
        *,
        retries: int,
        concurrency: int,
        place_timeout: float,
    ) -> None:
        self.counts = OriginCounts()
        self._store = store
        self.clock = clock
        self._draw = draw
        self._retries = retries
        self._places_to_read = asyncio.Semaphore(concurrency)
        self._places_to_write = asyncio.Semaphore(concurrency)
        self._place_timeout = place_timeout

    async def _attempts(
        self,
        operation: str,
        ref: Ref,
        once: Callable[[], Awaitable[T]],
        code_of: Callable[[T], str] = lambda _: "200",
        *,
        writing: bool = False,
        give_up_at: float = inf,
    ) -> T:
        places = self._places_to_write if writing else self._places_to_read
        retries = 0 if writing else self._retries
        failures = 0
        while True:
            await self._take(places, operation, ref, give_up_at)
            started = self.clock.now()
            code = "cancelled"
            try:
                answer = await once()
                code = code_of(answer)
                return answer
            except MilenaError:
                code = "200"  # an answer that the node does not want: too large
                raise
            except OriginFailure as failure:
                code = failure.status
                failures += 1
                if not failure.fault.retryable or failures > retries:
                    raise
            finally:
                places.release()
                self.counts.request(operation, code, self.clock.now() - started)
            await self.clock.sleep(BACKOFF.delay(failures, self._draw))

    async def _take(self, places: asyncio.Semaphore, operation: str, ref: Ref, give_up_at: float) -> None:
        """Wait for a place among the requests in hand, though not for ever: S3 may be hanging."""
        try:
            async with asyncio.timeout(self._place_timeout):
                await places.acquire()
        except TimeoutError:
            code = "S3_CONCURRENCY requests are in hand already"
            raise OriginFailure(Fault.THROTTLED, operation, ref, code, "local") from None
        if self.clock.now() >= give_up_at:
            places.release()
            raise OriginFailure(Fault.CONNECT, operation, ref, "not sent: its caller gave up", "local")

    async def get(self, ref: Ref, *, if_none_match: str = "", max_bytes: int) -> Stored | Absent:
        answer = await self._attempts(
            "get",
            ref,
            lambda: self._store.get(ref, if_none_match=if_none_match, max_bytes=max_bytes),
            _code_of_get,
        )
        if isinstance(answer, Stored):
            self.counts.bytes_read += len(answer.value)
        return answer

    async def head(self, ref: Ref) -> Info | None:
        return await self._attempts("head", ref, lambda: self._store.head(ref), _code_of_head)

    async def look(self, ref: Ref, give_up_at: float) -> Info | None:
        """As `head`, as a step of a write: one attempt, not begun after `give_up_at`."""
        return await self._attempts(
            "head", ref, lambda: self._store.head(ref), _code_of_head, writing=True, give_up_at=give_up_at
        )

    async def put(
        self,
        ref: Ref,
        value: bytes,
        give_up_at: float,
        *,
        if_match: str = "",
        if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
        attributes: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> str:
        """As `ObjectStore.put`: one attempt, not begun after `give_up_at` (monotonic seconds)."""
        etag = await self._attempts(
            "put",
            ref,
            lambda: self._store.put(
                ref, value, if_match=if_match, if_absent=if_absent, metadata=metadata, attributes=attributes
            ),
            writing=True,
            give_up_at=give_up_at,
        )
        self.counts.bytes_written += len(value)
        return etag

    async def describe(self, ref: Ref, give_up_at: float) -> Info | None:
        """As `look`, with the object's attributes."""
        return await self._attempts(
            "head", ref, lambda: self._store.describe(ref), _code_of_head, writing=True, give_up_at=give_up_at
        )

    async def copy(
        self,
        ref: Ref,
        give_up_at: float,
        *,
        if_match: str = "",
        metadata: Mapping[str, str],
        attributes: Mapping[str, Any],
    ) -> str:
        """As `ObjectStore.copy`: one attempt, not begun after `give_up_at`."""
        return await self._attempts(
            "copy",
            ref,
            lambda: self._store.copy(ref, if_match=if_match, metadata=metadata, attributes=attributes),
            writing=True,
            give_up_at=give_up_at,
        )

    async def delete(self, ref: Ref, give_up_at: float, *, if_match: str = "") -> None:
        """As `ObjectStore.delete`: one attempt, not begun after `give_up_at`."""
        await self._attempts(
            "delete", ref, lambda: self._store.delete(ref, if_match=if_match), writing=True, give_up_at=give_up_at
        )

    async def list(self, bucket: str, prefix: str, cursor: str, limit: int) -> Page:
        return await self._attempts(
            "list", Ref(bucket, prefix), lambda: self._store.list(bucket, prefix, cursor, limit)
        )

    async def check_bucket(self, bucket: str) -> None:
        await self._attempts("bucket", Ref(bucket, ""), lambda: self._store.check_bucket(bucket))

    async def close(self) -> None:
        await self._store.close()


def _code_of_head(answer: Info | None) -> str:
    return "200" if answer else "404"


def _code_of_get(answer: Stored | Absent) -> str:
    if isinstance(answer, Stored):
        return "200"
    return "304" if answer is Absent.NOT_MODIFIED else "404"
