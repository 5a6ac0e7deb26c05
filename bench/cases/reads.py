"""Shell. Reads through the router: hits and misses, one after another and by many at once, against boto3.

Samples include the S3 reads per call, so that a hit which is a miss is noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle

import grpc

from bench.case import Case, Samples, Target, Variant
from bench.fixtures import BOTO3_THREADS, BUCKET, CALLERS, Fixtures
from bench.peers.bare_chain import METHOD
from bench.workload.load import one_after_another, with_callers, with_threads
from milena_client import AsyncMilena, Milena

_HOT_KEYS = [f"hot/{number}" for number in range(100)]

Keys = Callable[[], str]
Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


def _variant(fixtures: Fixtures, name: str, run: Callable[[], Samples]) -> Variant:
    """Return a variant whose samples include the S3 reads per call: a hit has none, and each miss has one."""

    def counted() -> Samples:
        before = fixtures.s3_gets()
        samples = run()
        calls = samples.pop("calls")
        return {**samples, "s3_per_call": (fixtures.s3_gets() - before) / calls}

    return Variant(name, counted)


def _boto3(fixtures: Fixtures, keys: Keys, threads: int) -> Variant:
    def call() -> None:
        fixtures.boto3.get_object(Bucket=BUCKET, Key=keys())["Body"].read()

    return _variant(fixtures, "boto3", lambda: with_threads(call, threads, fixtures.scale.seconds))


@contextmanager
def _sync(fixtures: Fixtures, keys: Keys, latency: float) -> Iterator[Sequence[Variant]]:
    fixtures.stub.set_latency(latency)
    with Milena(fixtures.cluster.address) as client:

        def call() -> None:
            assert client.get(keys()) is not None

        run = partial(one_after_another, call, fixtures.scale.seconds)
        yield [_variant(fixtures, "milena", run), _boto3(fixtures, keys, 1)]


@contextmanager
def _async(fixtures: Fixtures, keys: Keys, latency: float) -> Iterator[Sequence[Variant]]:
    fixtures.stub.set_latency(latency)
    address = fixtures.cluster.address

    async def through_milena() -> Samples:
        async with AsyncMilena(address) as client:

            async def call() -> None:
                assert await client.get(keys()) is not None

            return await with_callers(call, CALLERS, fixtures.scale.seconds)

    milena = _variant(fixtures, "milena", lambda: asyncio.run(through_milena()))
    yield [milena, _boto3(fixtures, keys, BOTO3_THREADS)]


def _through_bare_grpc(fixtures: Fixtures) -> Variant:
    address = fixtures.bare_chain

    async def run() -> Samples:
        async with grpc.aio.insecure_channel(address) as channel:
            get: Call = channel.unary_unary(METHOD)

            async def call() -> None:
                await get(b"hot/0", timeout=5)

            return await with_callers(call, CALLERS, fixtures.scale.seconds)

    return _variant(fixtures, "bare_grpc", lambda: asyncio.run(run()))


def _warm(fixtures: Fixtures) -> Keys:
    """Return the hot keys in turn, all of them in memory."""
    with Milena(fixtures.cluster.address) as milena:
        milena.get_many(_HOT_KEYS)
    keys = cycle(_HOT_KEYS)
    return lambda: next(keys)


@contextmanager
def _hit_sync(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    with _sync(fixtures, _warm(fixtures), latency=0) as variants:
        yield variants


@contextmanager
def _hit_async(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    with _async(fixtures, _warm(fixtures), latency=0) as variants:
        yield [*variants, _through_bare_grpc(fixtures)]


def _miss_case(kind: str, latency_ms: int) -> Case:
    open_variants = _sync if kind == "sync" else _async
    callers = "one after another" if kind == "sync" else f"{CALLERS} callers"
    return Case(
        f"miss_{kind}_{latency_ms}ms",
        f"read keys never read before, {callers}; S3 answers after {latency_ms} ms",
        "per_s",
        ["boto3"],
        lambda fixtures: open_variants(fixtures, fixtures.new_key, latency_ms / 1000),
    )


CASES = (
    Case("hit_sync", "read keys in memory, sync client, one after another", "per_s", ["boto3"], _hit_sync),
    Case(
        "hit_async",
        f"read keys in memory, async client, {CALLERS} callers (boto3: {BOTO3_THREADS} threads)",
        "per_s",
        ["boto3", "bare_grpc"],
        _hit_async,
        [Target("milena", "per_s", at_least=2000)],
    ),
    *(_miss_case(kind, latency_ms) for kind in ("sync", "async") for latency_ms in (0, 20)),
)
