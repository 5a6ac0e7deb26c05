"""RATE_LIMIT at the node's gRPC door: which methods it counts, and what those over it are told."""

from __future__ import annotations

import pytest

from milena_cache.servers.grpc.methods import LIMITED, Named, limited
from milena_common.api.errors import RateLimited
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.token_bucket import TokenBucket
from tests.support.fake_clock import FakeClock


async def answer(request: pb.GetRequest, remaining: float | None) -> bytes:
    return b"%s %d" % (request.key, remaining or 0)


METHODS: dict[str, Named] = {name: (name.lower(), pb.GetRequest, answer) for name in (*LIMITED, "Stats", "Flush")}


def behind(rate: float, clock: FakeClock) -> tuple[dict[str, Named], TokenBucket]:
    limiter = TokenBucket(rate, clock.now())
    return dict(limited(METHODS, limiter, clock)), limiter


async def test_within_the_limit_nothing_is_changed() -> None:
    methods, limiter = behind(len(LIMITED), FakeClock())
    for name in LIMITED:
        operation, request, method = methods[name]
        assert (operation, request) == (name.lower(), pb.GetRequest)
        assert await method(pb.GetRequest(key=b"k"), 3.0) == b"k 3"
    assert limiter.rejected == 0


async def test_over_it_the_methods_of_objects_are_refused_with_the_time_to_wait() -> None:
    clock = FakeClock()
    methods, limiter = behind(2, clock)
    for _ in range(2):
        await methods["Get"][2](pb.GetRequest(), None)
    for name in LIMITED:
        with pytest.raises(RateLimited, match="this node's RATE_LIMIT of 2 requests a second") as refused:
            await methods[name][2](pb.GetRequest(), None)
        assert refused.value.retry_after == 0.5
    assert limiter.rejected == len(LIMITED)
    clock.tick(0.5)
    await methods["Put"][2](pb.GetRequest(), None)


async def test_operators_and_the_router_are_never_refused() -> None:
    methods, limiter = behind(1, FakeClock())
    for name in ("Get", "Stats", "Flush", "Stats", "Flush"):
        await methods[name][2](pb.GetRequest(), None)
    assert limiter.rejected == 0


async def test_without_a_limit_nothing_stands_before_the_methods() -> None:
    methods, _ = behind(0, FakeClock())
    assert methods == METHODS
