"""Coordination. Waits for single-flight reads of S3, and records their results for the health of S3.

A reader with a servable entry waits at most REVALIDATE_TIMEOUT_SECONDS, and is served the entry if S3 fails in a
transient way (stale-if-error). A rejection by S3 that concerns the object is raised.

A reader never cancels the shared call: it stops waiting, and the call continues for the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
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
R = TypeVar("R")


class SharedReads:
    """Waits for the reads of one node.

    `revalidate_timeout`: for how many seconds a reader with a servable entry waits for S3.
    """

    def __init__(self, reads: ReadCounts, clock: Clock, revalidate_timeout: float) -> None:
        self._health = OriginHealth()
        self._reads = reads
        self._clock = clock
        self._revalidate_timeout = revalidate_timeout

    def counting(self, reads: ReadCounts) -> SharedReads:
        """Return the same waits, with errors counted in `reads`."""
        other = copy(self)
        other._reads = reads
        return other

    def expects_failure(self, target: Object) -> bool:
        """True if a read of the object is expected to fail, so that a servable entry is served at once."""
        return self._health.expects_failure(target.cache_key, self._clock.now())

    def may_probe(self, target: Object) -> bool:
        """True if a background read of the object may begin; it is then counted as begun."""
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
        """Return the call's result, within `timeout` seconds; None if the reader's entry is to be served instead.

        `has_entry`: the reader has a servable entry. Raises OriginUnavailable, AccessDenied or FailedPrecondition
        with S3's message.
        """
        limit = min(timeout, self._revalidate_timeout) if has_entry else timeout
        if not await reads.wait(call, limit):
            if has_entry:
                self._failed(target, f"no response to a {operation} of {target.ref} within {limit:.3g} s")
                return None
            self._reads.outcomes["error"] += 1
            raise OriginUnavailable(f"S3 {operation} of {target.ref}: no response within {timeout:.3g} s")
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

    def result(
        self, call: SharedCall[T], target: Object, timeout: float, operation: str, convert: Callable[[T], R]
    ) -> asyncio.Future[R]:
        """Return `convert(result of the call)` within `timeout` seconds; for a reader without a servable entry.

        A future, because a task to wait in would be a tenth of what a miss costs the node. Its exceptions are those
        that `wait` raises.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[R] = loop.create_future()

        # The outcome and the timer may come in the same iteration of the event loop: each checks `result`, so that
        # it is set, and the error counted, once.
        def finished(outcome: asyncio.Future[T]) -> None:
            timer.cancel()
            if result.done():
                return  # its reader was cancelled, or its time is over
            try:
                result.set_result(convert(outcome.result()))
                return
            except OriginFailure as failure:
                result.set_exception(failure.as_error())
            except asyncio.CancelledError:
                result.cancel()
            except Exception as error:
                result.set_exception(error)
            self._reads.outcomes["error"] += 1

        def expire() -> None:
            # Without this, readers that time out again and again would pile up callbacks on a call that hangs.
            call.outcome.remove_done_callback(finished)
            if not result.done():
                self._reads.outcomes["error"] += 1
                result.set_exception(
                    OriginUnavailable(f"S3 {operation} of {target.ref}: no response within {timeout:.3g} s")
                )

        timer = loop.call_later(max(0.0, timeout), expire)
        call.outcome.add_done_callback(finished)
        return result

    async def observed(self, target: Object, request: Awaitable[T]) -> T:
        """Return the result of `request`, a read of the object from S3, and record its success or failure.

        Raises what `request` raises.
        """
        try:
            response = await request
        except OriginFailure as failure:
            if failure.fault.retryable or failure.fault is Fault.ACCOUNT:
                self._failed(target, str(failure), unconnected=failure.fault is Fault.CONNECT)
            else:
                # S3 works, and its rejection must reach the readers rather than be hidden behind stale entries.
                self._succeeded(target)
            raise
        self._succeeded(target)
        return response

    def _failed(self, target: Object, what: str, *, unconnected: bool = False) -> None:
        if self._health.failed(target.cache_key, self._clock.now(), unconnected=unconnected):
            log.warning("S3 fails for several keys, the last: %s; entries are served stale until it responds", what)

    def _succeeded(self, target: Object) -> None:
        if self._health.succeeded(target.cache_key):
            log.info("S3 responds again")
