"""Coordination. Confirms that an object is absent, with one request for all concurrent callers, and caches that.

The response to a HEAD has no error code, so its 404 may come from a proxy in front of S3. A GET has the code. There
is one GET per object in `ttl` seconds, for any number of callers.

The interleaving that this avoids: a GET finds the object absent, then a write of this node creates it, then a HEAD
gets a load balancer's 404. With the cached result of the GET, the object would count as absent. So a write
invalidates the cached result, before it is sent and after it has ended, and detaches a GET that is in flight.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from milena_cache.objects.object_store import Info, Ref
from milena_common.runtime.clock import Clock

# The number of cached absences; the oldest is dropped first.
MAX_KNOWN = 100_000


class Absence:
    """The objects that are absent according to S3's own error code; `ttl` in seconds."""

    def __init__(self, clock: Clock, ttl: float) -> None:
        self._clock = clock
        self._ttl = ttl
        self._known: OrderedDict[Ref, float] = OrderedDict()
        self._asking: dict[Ref, asyncio.Task[Info | None]] = {}

    def clear_known(self, ref: Ref) -> None:
        """Drop what is cached about the object, because it is being written."""
        self._known.pop(ref, None)
        self._asking.pop(ref, None)

    async def confirm(self, ref: Ref, inquire: Callable[[Ref], Awaitable[Info | None]]) -> Info | None:
        """Return the object, None if it is absent. Raises what `inquire` raises."""
        learnt_at = self._known.get(ref)
        if learnt_at is not None and self._clock.now() - learnt_at < self._ttl:
            return None
        task = self._asking.get(ref)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._request(ref, inquire))
            self._asking[ref] = task
            task.add_done_callback(lambda done: self._request_done(ref, done))
        try:
            # The request continues for the other callers if one is cancelled.
            return await asyncio.shield(task)
        finally:
            del task  # else its exception, whose traceback has this frame, would be part of a reference cycle

    async def _request(self, ref: Ref, inquire: Callable[[Ref], Awaitable[Info | None]]) -> Info | None:
        requested_at = self._clock.now()
        found = await inquire(ref)
        if found is None and self._ttl > 0 and self._asking.get(ref) is asyncio.current_task():
            self._known[ref] = requested_at
            self._known.move_to_end(ref)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return found

    def _request_done(self, ref: Ref, task: asyncio.Task[Info | None]) -> None:
        if self._asking.get(ref) is task:
            del self._asking[ref]
        if not task.cancelled():
            task.exception()  # all callers may have been cancelled
