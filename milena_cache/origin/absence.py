"""Coordination. Makes sure that an object is absent, by one request for all who ask, and remembers it for a while.

The answer to a HEAD carries no error code, so a 404 may come from whatever stands before S3. A GET tells. Each
object is asked about once in `ttl` seconds, however many look.

Interleaving that is avoided: a GET says "absent", then a write of ours creates the object, then a HEAD meets a load
balancer's 404. Were the GET still believed, the object would be taken for absent. So a write forgets, before it is
sent and after it has ended, what is known of its object, and detaches a GET that is in flight.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from milena_cache.objects.object_store import Info, Ref
from milena_common.runtime.clock import Clock

# Absent objects that are remembered; the one that was learnt first is forgotten first.
MAX_KNOWN = 100_000


class Absence:
    """What is known to be absent, by S3's own word; `ttl` in seconds."""

    def __init__(self, clock: Clock, ttl: float) -> None:
        self._clock = clock
        self._ttl = ttl
        self._known: OrderedDict[Ref, float] = OrderedDict()
        self._asking: dict[Ref, asyncio.Task[Info | None]] = {}

    def invalidate(self, ref: Ref) -> None:
        """Know nothing of the object any more: it is being written."""
        self._known.pop(ref, None)
        self._asking.pop(ref, None)

    async def confirm(self, ref: Ref, inquire: Callable[[Ref], Awaitable[Info | None]]) -> Info | None:
        """Return the object, None if it is known to be absent. Raises what `inquire` raises."""
        learnt_at = self._known.get(ref)
        if learnt_at is not None and self._clock.now() - learnt_at < self._ttl:
            return None
        task = self._asking.get(ref)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._request(ref, inquire))
            self._asking[ref] = task
            task.add_done_callback(lambda done: self._request_done(ref, done))
        # One who gives up leaves the request to the others.
        return await asyncio.shield(task)

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
            task.exception()  # all who asked may have given up
