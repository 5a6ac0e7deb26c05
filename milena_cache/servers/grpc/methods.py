"""Coordination. The methods of the gRPC server: those of `api_methods`, with a Get that waits for room first.

Other large requests wait for room in `milena_common.rpc.receive`, before they are received.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from milena_cache.membership.slot_waiters import SlotWaiters
from milena_cache.servers.api_methods import ApiMethods, Named
from milena_cache.servers.grpc.budgeted_get import BudgetedGet
from milena_cache.service.requests import Requests
from milena_common.api.errors import TryAgain
from milena_common.api.methods import DELETE, GET, PUT, UPLOAD, served_by_node
from milena_common.limits.byte_budget import ByteBudget
from milena_common.rpc.calls import Method
from milena_common.runtime.clock import Clock


def grpc_methods(
    api: ApiMethods, requests: Requests, budget: ByteBudget, clock: Clock, waiters: SlotWaiters
) -> Mapping[str, Named]:
    """Return the methods for a `GrpcServer`. `budget`: the process's bytes in flight.

    `waiters`: where requests for a slot that is handed over wait.
    """
    get = BudgetedGet(api, requests, budget, clock).get

    async def get_in_gap(request: Any, remaining: float | None) -> bytes:
        try:
            return await get(request, remaining)
        except TryAgain as error:
            found: bytes = await waiters.repeat(lambda: get(request, remaining), error)
            return found

    # Not `async`, as the methods that they call: nothing is to hold on to a put's message while it is written.
    def write_in_gap(write: Method) -> Method:
        def begin(request: Any, remaining: float | None) -> Awaitable[bytes]:
            try:
                return write(request, remaining)
            except TryAgain as error:
                return waiters.repeat(lambda: write(request, remaining), error)

        return begin

    in_gap = {
        GET: get_in_gap,
        PUT: write_in_gap(api.put),
        DELETE: write_in_gap(api.delete),
        UPLOAD: write_in_gap(api.upload),
    }
    return {**api.methods(), **served_by_node(in_gap)}
