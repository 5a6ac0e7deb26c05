"""Jobs over HTTP as calls of the router's own service."""

from __future__ import annotations

from typing import Any

import pytest

from milena_common.access.access import Access
from milena_common.access.acl_file import parse_users
from milena_common.access.api_guard import ApiGuard
from milena_common.api.errors import AccessDenied, InvalidRequest
from milena_common.api.methods import ROUTER_OPERATIONS
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.metrics.call_counts import CallCounts
from milena_router.http_jobs import ACTIONS, HttpJobs
from tests.router.router_under_test import Router, running_router
from tests.router.test_service_operators import A, B

USERS = b"user ops on >ops-password ~* +@all\nuser app on >app-password ~* +@read +@write\n"


class Caller:
    """What a user of USERS begins at a router."""

    def __init__(self, router: Router, name: str = "ops") -> None:
        access = Access(router.clock, parse_users(USERS, "b"))
        self.calls = CallCounts(ROUTER_OPERATIONS)
        guard = ApiGuard(access, lambda: "b", router.clock.now)
        self.jobs = HttpJobs(router.service.methods(), guard, self.calls, router.clock)
        self.principal = access.login(name, f"{name}-password", "peer", "http")

    async def run(self, action: str, **parameters: str) -> list[dict[str, Any]]:
        job = self.jobs.begin(action, parameters, self.principal, "peer")
        return [progress async for progress in job]


async def test_a_job_runs_at_all_nodes_in_parts_and_is_forgotten_there() -> None:
    async with running_router() as router:
        await router.join(A, B)
        for node in (A, B):
            part = cache_pb.SweepResponse(done=True, examined=2, entries=2, changed=1, bytes=4)
            router.nodes[node].reply = part.SerializeToString()
        caller = Caller(router)
        (progress,) = await caller.run("purge", prefix="logs/", bucket="other-bucket", dry_run="true")
        assert (progress["done"], progress["changed"], set(progress["nodes"])) == (True, 2, {A, B})
        sent = [cache_pb.SweepRequest.FromString(each) for _, _, each in router.requests_at_nodes()]
        first, last = sent[0], sent[-1]
        assert (first.action, first.prefix, first.bucket, first.dry_run) == (
            "purge",
            b"logs/",
            "other-bucket",
            True,
        )
        assert last.end
        assert last.job == first.job
        assert caller.calls["sweep"].requests == 2


async def test_a_user_without_the_permission_of_grpc_has_none_over_http() -> None:
    async with running_router() as router:
        await router.join(A)
        for action in {*ACTIONS} - {"warm"}:  # of which only listing is permitted, and there is nothing to list
            with pytest.raises(AccessDenied):
                await Caller(router, "app").run(action, prefix="")
        assert "Sweep" not in {method for _, method, _ in router.requests_at_nodes()}


@pytest.mark.parametrize(
    ("action", "parameters", "message"),
    [
        ("drop", {"prefix": "a"}, r"action: got 'drop'; allowed: warm, pin, unpin, purge, invalidate"),
        ("purge", {}, r"prefix: is missing"),
        ("purge", {"prefix": "a", "prefx": "b"}, r"prefx: is no parameter; allowed: prefix, bucket, rate, dry_run"),
        ("warm", {"prefix": "a", "rate": "0"}, r"rate: got '0'; allowed are numbers over 0"),
        ("warm", {"prefix": "a", "rate": "nan"}, r"rate: got 'nan'"),
        ("warm", {"prefix": "a", "rate": "fast"}, r"rate: got 'fast'"),
        ("pin", {"prefix": "a", "dry_run": "yes"}, r"dry_run: got 'yes'; allowed: true, false"),
        ("pin", {"prefix": "a", "bucket": "NO"}, r"bucket: "),
        ("pin", {"prefix": "a" * 1025}, r"prefix: has 1025 bytes; allowed are at most 1024"),
    ],
)
async def test_wrong_parameters_are_named_with_what_is_allowed(
    action: str, parameters: dict[str, str], message: str
) -> None:
    async with running_router() as router:
        with pytest.raises(InvalidRequest, match=message):
            await Caller(router).run(action, **parameters)
        assert not router.requests_at_nodes()
