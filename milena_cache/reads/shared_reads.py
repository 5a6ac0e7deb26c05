"""Coordination. Waiting for a read of S3 that others may wait for too, and noting what it says of S3.

A reader that has a copy waits no longer than REVALIDATE_TIMEOUT_SECONDS, and gets its copy where S3 fails in a way
that may pass. What S3 refuses is raised to it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from copy import copy
from typing import TypeVar

from milena_cache.memory.single_flight import SharedCall, SingleFlight
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import Fault, OriginFailure
from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.reads.origin_health import OriginHealth
from milena_common.api.errors import OriginUnavailable
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")


class SharedReads:
    """The reads of one node. `revalidate_timeout` in seconds."""

    def __init__(self, reads: ReadCounts, clock: Clock, revalidate_timeout: float) -> None:
        self._health = OriginHealth()
        self._reads = reads
        self._clock = clock
        self._revalidate_timeout = revalidate_timeout

    def counting(self, reads: ReadCounts) -> SharedReads:
        """The same, with errors counted in `reads`."""
        other = copy(self)
        other._reads = reads
        return other

    def expects_failure(self, target: Object) -> bool:
        """Return True if a read of the object is expected to fail, so that a servable copy goes before it."""
        return self._health.expects_failure(target.cache_key, self._clock.now())

    def may_probe(self, target: Object) -> bool:
        """Return True if the object may be read in the background, and count that as begun."""
        return self._health.may_probe(target.cache_key, self._clock.now())

    async def wait(
        self,
        reads: SingleFlight[T],
        call: SharedCall[T],
        target: Object,
        timeout: float,
        operation: str,
        *,
        has_entry: bool,
    ) -> T | None:
        """Return what the flight brings within `timeout` seconds; None if the copy is to be served in its place.

        Raises OriginUnavailable, AccessDenied or FailedPrecondition with S3's words.
        """
        limit = min(timeout, self._revalidate_timeout) if has_entry else timeout
        if not await reads.wait(call, limit):
            if has_entry:
                self._failed(target, f"no answer to a {operation} of {target.ref} within {limit:.3g} s")
                return None
            self._reads.outcomes["error"] += 1
            raise OriginUnavailable(f"S3 {operation} of {target.ref}: no answer within {timeout:.3g} s")
        try:
            return call.outcome.result()
        except OriginFailure as failure:
            if has_entry and not failure.fault.of_object:
                return None
            self._reads.outcomes["error"] += 1
            raise failure.as_error() from None
        except BaseException:
            self._reads.outcomes["error"] += 1
            raise

    async def observed(self, target: Object, request: Awaitable[T]) -> T:
        """Return what `request`, a read of the object from S3, brings. Raises what it raises."""
        try:
            response = await request
        except OriginFailure as failure:
            if failure.fault.retryable or failure.fault is Fault.ACCOUNT:
                self._failed(target, str(failure), unconnected=failure.fault is Fault.CONNECT)
            else:
                self._succeeded(target)  # it answers, and its refusal shall be heard
            raise
        self._succeeded(target)
        return response

    def _failed(self, target: Object, what: str, *, unconnected: bool = False) -> None:
        if self._health.failed(target.cache_key, self._clock.now(), unconnected=unconnected):
            log.warning("S3 fails for several keys, the last: %s; copies are served stale until it answers", what)

    def _succeeded(self, target: Object) -> None:
        if self._health.succeeded(target.cache_key):
            log.info("S3 answers again")
