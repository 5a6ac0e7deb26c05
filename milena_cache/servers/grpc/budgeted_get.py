"""Coordination. Get over gRPC with its answer in the process's budget of bytes in flight.

An answer is copied several times on its way out, so a large one takes its bytes before it is built, when its value
is in memory. One that comes from S3 takes over the bytes of its fetch, which are given back a turn of the event
loop later: if it waited for bytes of its own, fetches that have not begun would be granted before it, and all their
values would be in memory and wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping

from milena_cache.servers.grpc.methods import CacheService, Named
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, SMALL_BYTES, CallBytes
from milena_common.runtime.clock import Clock
from milena_common.runtime.deadlines import time_for_room


class BudgetedGet:
    """`Get` of `service`, whose answers of more than SMALL_BYTES are in `budget` until they are sent."""

    def __init__(self, service: CacheService, budget: ByteBudget, clock: Clock) -> None:
        self._service = service
        self._budget = budget
        self._clock = clock

    def methods(self) -> Mapping[str, Named]:
        """Return the service's methods with this Get in place of its own, for a `GrpcServer`."""
        return {**self._service.methods(), "Get": ("get", pb.GetRequest, self.get)}

    async def get(self, request: pb.GetRequest, remaining: float | None) -> bytes:
        """As `CacheService.get`. Raises Overloaded too, if there is no room for the answer in time."""
        # Almost all Gets end here: with one look-up, and without a second coroutine.
        small = self._service.get_now(request, SMALL_BYTES)
        if small is not None:
            return small
        size = self._service.size_in_memory(request)
        held = None
        if size > SMALL_BYTES:
            began = self._clock.now()
            held = CallBytes(self._budget)
            await held.take(COPIES * size, time_for_room(remaining))
            if remaining is not None:
                remaining = max(0.0, remaining - (self._clock.now() - began))
        response = await (self._service.fetch if held is None else self._service.get)(request, remaining)
        if held is not None or len(response) > SMALL_BYTES:
            (held or CallBytes(self._budget)).set_total(COPIES * len(response))
        return response
