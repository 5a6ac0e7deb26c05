"""Shell. A node's S3 endpoint: hits by raw HTTP with signatures, and by boto3 against boto3 straight to S3.

The node has read all objects before. Samples include the S3 reads per call, so that a hit which is a miss is
noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING

from boto3.session import Session
from botocore.config import Config

from bench.case import Case, Samples, Target, Variant
from bench.cores import apart, with_processor_times
from bench.fixtures import BUCKET, S3_KEYS, Fixtures
from bench.peers.stub_process import StubProcess
from bench.workload.load import one_after_another
from tests.support.s3.moto_server import REGION

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_KIB, _MIB = 2**10, 2**20
_FAR_MS = 20


@contextmanager
def _raw_hits(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    fixtures.stub.set_latency(0)
    cluster = fixtures.s3_cluster
    node = cluster.nodes[0]

    def gets(endpoint_url: str) -> Samples:
        return fixtures.samples("bench.programs.s3.gets", endpoint_url, str(fixtures.scale.seconds))

    def hits() -> Samples:
        before = fixtures.s3_gets()
        samples = gets(f"http://{node.s3}")
        return {**samples, "s3_per_call": (fixtures.s3_gets() - before) / samples["calls"]}

    gets(f"http://{node.s3}")
    with apart([node.pid], [cluster.router.pid, fixtures.stub.pid]):
        # The stub checks no signatures: it shows what the load itself can do.
        yield [
            Variant("milena", lambda: with_processor_times({"server": node.pid}, hits)),
            Variant("stub", lambda: _without_calls(gets(fixtures.stub.endpoint_url))),
        ]


def _without_calls(samples: Samples) -> Samples:
    return {name: value for name, value in samples.items() if name != "calls"}


def _boto3_case(name: str, size: int, targets: Sequence[Target]) -> Case:
    @contextmanager
    def variants(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
        stub, cluster = fixtures.s3_of(size)
        node = cluster.nodes[0]
        yield [
            Variant("milena", _gets(f"http://{node.s3}", size, stub, 0, fixtures.scale.seconds)),
            Variant("boto3", _gets(stub.endpoint_url, size, stub, 0, fixtures.scale.seconds)),
            Variant(f"boto3_{_FAR_MS}ms", _gets(stub.endpoint_url, size, stub, _FAR_MS, fixtures.scale.seconds)),
        ]

    peers = ["boto3", f"boto3_{_FAR_MS}ms"]
    shown = f"{size // _MIB} MiB" if size >= _MIB else f"{size // _KIB} KiB"
    about = f"get_object of {shown} by boto3: in a node's memory, by its S3 endpoint; and straight from S3"
    return Case(name, about, "per_s", peers, variants, targets)


def _client(endpoint_url: str) -> S3Client:
    """Return boto3 with its defaults."""
    key, secret = S3_KEYS
    session = Session(key, secret, region_name=REGION)
    return session.client("s3", endpoint_url=endpoint_url, config=Config(proxies={}))


def _gets(
    endpoint_url: str, size: int, stub: StubProcess, latency_ms: float, seconds: float
) -> Callable[[], Samples]:
    client = _client(endpoint_url)
    keys = cycle([f"hot/{number}" for number in range(2 if size >= _MIB else 100)])

    def call() -> None:
        assert len(client.get_object(Bucket=BUCKET, Key=next(keys))["Body"].read()) == size

    def run() -> Samples:
        stub.set_latency(latency_ms / 1000)
        before = stub.requests().get("GET", 0)
        samples = one_after_another(call, seconds)
        calls = samples.pop("calls")
        stub.set_latency(0)
        return {**samples, "s3_per_call": (stub.requests().get("GET", 0) - before) / calls}

    for _ in range(2 if size >= _MIB else 100):
        call()
    return run


CASES = (
    Case(
        "s3_hits",
        "GetObject of 1 KiB in memory by a node's S3 endpoint, raw HTTP with signatures, 32 connections",
        "per_s",
        ["stub"],
        _raw_hits,
        [Target("milena", "per_s", at_least=5000)],
    ),
    _boto3_case(
        "s3_boto3_1kib",
        _KIB,
        [
            Target("milena", "per_s", peer="boto3", at_least=0.9),
            Target("milena", "per_s", peer=f"boto3_{_FAR_MS}ms", at_least=15),
        ],
    ),
    _boto3_case("s3_boto3_8mib", 8 * _MIB, [Target("milena", "per_s", peer="boto3", at_least=0.8)]),
)
