"""Coordination. Get over gRPC with its response in the process's budget of bytes in flight.

A response is copied several times on its way out. A large one whose value is in memory takes its bytes before it is
built. One whose value comes from S3 takes over the bytes of its fetch, which are released one step of the event
loop later. If it waited for bytes of its own instead: (1) a fetch completes and releases its bytes; (2) a fetch
that was queued earlier is granted them, before the response; (3) this repeats, until all values are in memory and
all responses wait for each other's bytes.
"""

from __future__ import annotations

from milena_cache.servers.api_methods import ApiMethods
from milena_cache.service.requests import Requests
from milena_common.api.byte_range import ByteRange
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, SMALL_BYTES, CallBytes
from milena_common.runtime.clock import Clock
from milena_common.runtime.deadlines import time_for_room


class BudgetedGet:
    """`Get` of `api`, whose responses of more than SMALL_BYTES are counted in `budget` until they are sent."""

    def __init__(self, api: ApiMethods, requests: Requests, budget: ByteBudget, clock: Clock) -> None:
        self._api = api
        self._requests = requests
        self._budget = budget
        self._clock = clock

    async def get(self, request: pb.GetRequest, remaining: float | None) -> bytes:
        """Return the response as `ApiMethods.get` does. Raises Overloaded too, if it finds no room in time."""
        place = self._api.admit_object(request)
        if request.metadata_only:
            size = 0
        elif request.offset or request.length or request.if_match:
            size = self._requests.part_in_memory(place, ByteRange(request.offset, request.length))
        else:
            size = self._requests.size_in_memory(place)
        held = None
        if size > SMALL_BYTES:
            began = self._clock.now()
            held = CallBytes(self._budget)
            await held.take(COPIES * size, time_for_room(remaining))
            if remaining is not None:
                remaining = max(0.0, remaining - (self._clock.now() - began))
        response = self._api.get_at(request, place, remaining)
        if not isinstance(response, bytes):
            response = await response
        elif held is None:
            return response  # almost all Gets end here: a small value in memory needs no room
        if held is not None or len(response) > SMALL_BYTES:
            (held or CallBytes(self._budget)).set_total(COPIES * len(response))
        return response
