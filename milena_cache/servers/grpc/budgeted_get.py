"""Coordination. Get over gRPC with its answer in the process's budget of bytes in flight.

An answer is copied several times on its way out, so a large one takes its bytes before it is built, when its value
is in memory. One that comes from S3 takes over the bytes of its fetch, which are given back a turn of the event
loop later: if it waited for bytes of its own, fetches that have not begun would be granted before it, and all their
values would be in memory and wait for each other.
"""

from __future__ import annotations

from milena_cache.servers.api_methods import ApiMethods
from milena_cache.service.requests import Requests
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, SMALL_BYTES, CallBytes
from milena_common.runtime.clock import Clock
from milena_common.runtime.deadlines import time_for_room


class BudgetedGet:
    """`Get` of `api`, whose responses of more than SMALL_BYTES are in `budget` until they are sent."""

    def __init__(self, api: ApiMethods, requests: Requests, budget: ByteBudget, clock: Clock) -> None:
        self._api = api
        self._requests = requests
        self._budget = budget
        self._clock = clock

    async def get(self, request: pb.GetRequest, remaining: float | None) -> bytes:
        """As `ApiMethods.get`. Raises Overloaded too, if there is no room for the response in time."""
        place = self._api.begin(request)
        size = 0 if request.metadata_only else self._requests.size_in_memory(place)
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
