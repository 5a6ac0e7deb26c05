"""Coordination. The methods of the gRPC server: those of `api_methods`, with a Get that waits for room first.

Other large requests wait for room in `milena_common.rpc.receive`, before they are received.
"""

from __future__ import annotations

from collections.abc import Mapping

from milena_cache.servers.api_methods import ApiMethods, Named
from milena_cache.servers.grpc.budgeted_get import BudgetedGet
from milena_cache.service.requests import Requests
from milena_common.api.methods import GET, served_by_node
from milena_common.limits.byte_budget import ByteBudget
from milena_common.runtime.clock import Clock


def grpc_methods(api: ApiMethods, requests: Requests, budget: ByteBudget, clock: Clock) -> Mapping[str, Named]:
    """Return the methods for a `GrpcServer`. `budget`: the process's bytes in flight."""
    return {**api.methods(), **served_by_node({GET: BudgetedGet(api, requests, budget, clock).get})}
