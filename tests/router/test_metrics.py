"""The router's metrics, by the names that dashboards and alerts use."""

from __future__ import annotations

from prometheus_client import generate_latest

from milena_common.api.errors import NodeLost
from milena_common.api.pb import router_server_pb2 as pb
from milena_router.metrics import router_registry
from tests.router.router_under_test import SOON, Router, running_router
from tests.support.processes import Metrics

A, B = "node-a:50051", "node-b:50051"


def scrape(router: Router) -> Metrics:
    return Metrics(
        generate_latest(
            router_registry(router.calls, router.leases, router.limiter, router.watchers, router.budget)
        ).decode()
    )


async def test_calls_errors_and_the_ring_are_shown() -> None:
    async with running_router(rate_limit=2) as router:
        await router.join(A, B)
        await router.stub.Get(pb.GetRequest(key=b"k"), timeout=SOON)
        router.nodes[A].reply = router.nodes[B].reply = NodeLost("gone")
        await router.rejection("Get", pb.GetRequest(key=b"k"))
        await router.rejection("Get", pb.GetRequest(key=b"k"))
        await router.stub.Leave(pb.LeaveRequest(address=A), timeout=SOON)
        metrics = scrape(router)
        assert metrics.value("milena_router_requests_total", operation="get") == 3
        assert metrics.value("milena_router_requests_total", operation="join") == 2
        assert metrics.value("milena_router_errors_total", operation="get", code="unavailable") == 1
        assert metrics.value("milena_router_errors_total", operation="get", code="resource_exhausted") == 1
        assert metrics.value("milena_router_request_duration_seconds_count", operation="get") == 3
        assert metrics.value("milena_router_rate_limited_total") == 1
        assert metrics.value("milena_router_ring_nodes") == 1
        assert metrics.value("milena_router_ring_epoch") == router.leases.ring.epoch
        assert metrics.value("milena_router_ring_slots", node=B) == 16384
        assert metrics.value("milena_router_ring_share_ratio", node=B) == 1
        assert metrics.value("milena_router_ring_slots", node=A) == 0
        assert metrics.value("milena_router_ring_changes_total", change="join") == 2
        assert metrics.value("milena_router_ring_changes_total", change="leave") == 1


async def test_bytes_in_flight_and_what_waits_for_them_are_shown() -> None:
    router = Router(0)
    router.budget.limit = 1000
    await router.budget.take(900, None)
    waiting = [router.budget.request(size) for size in (200, 300)]
    late = router.budget.request(50)
    router.budget.reject(50, late)
    metrics = scrape(router)
    assert metrics.value("milena_router_in_flight_bytes") == 900
    assert metrics.value("milena_router_in_flight_limit_bytes") == 1000
    assert metrics.value("milena_router_in_flight_waiting_requests") == len(waiting)
    assert metrics.value("milena_router_in_flight_waiting_bytes") == 500
    assert metrics.value("milena_router_in_flight_rejected_total") == 1


async def test_every_name_is_there_before_anything_happened() -> None:
    async with running_router() as router:
        names = scrape(router).names
    assert {
        "milena_router_requests_total",
        "milena_router_request_duration_seconds_bucket",
        "milena_router_rate_limited_total",
        "milena_router_ring_nodes",
        "milena_router_ring_epoch",
        "milena_router_ring_changes_total",
        "milena_build_info",
        "process_cpu_seconds_total",
        "python_info",
    } <= names
