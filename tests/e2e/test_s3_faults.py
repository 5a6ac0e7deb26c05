"""S3 at its worst, between real nodes and a real S3: what callers get, and that nothing wrong is served."""

from __future__ import annotations

import time

import pytest
from mypy_boto3_s3 import S3Client

from milena_client import AccessDenied, FailedPrecondition, Milena, OriginUnavailable, RetryPolicy
from milena_common.api.pb import router_server_pb2 as pb
from tests.e2e.conftest import StartCluster
from tests.e2e.raw import rejection, router_stub
from tests.support.cluster import Cluster
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.faults import (
    ACCESS_DENIED,
    INTERNAL_ERROR,
    NO_SUCH_BUCKET,
    SLOW_DOWN,
    Delay,
    Fault,
    Hang,
    LoseRequest,
    LoseResponse,
    Reply,
    TruncatedBody,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

# One attempt of a node waits this long for S3.
TIMEOUT = 0.4
NODE = {
    "S3_TIMEOUT_SECONDS": str(TIMEOUT),
    "S3_CONNECT_TIMEOUT_SECONDS": str(TIMEOUT),
    "S3_RETRIES": "2",
    "WRITE_MODE": "through",
}
ATTEMPTS = 3
VALUE = b"x" * 100_000


@pytest.fixture
def one(start_cluster: StartCluster, s3: S3Client) -> Cluster:
    """A router and one node, and an object `k` that was not read yet."""
    cluster = start_cluster(1, node_env=NODE)
    s3.put_object(Bucket=cluster.bucket, Key="k", Body=VALUE)
    return cluster


REPEATED = [INTERNAL_ERROR, SLOW_DOWN, TruncatedBody(), LoseResponse(), Hang()]
FINAL = [
    (ACCESS_DENIED, "PERMISSION_DENIED", "AccessDenied"),
    (NO_SUCH_BUCKET, "FAILED_PRECONDITION", "NoSuchBucket"),
    (Reply(400, "InvalidArgument"), "FAILED_PRECONDITION", "InvalidArgument"),
]


@pytest.mark.parametrize("fault", REPEATED, ids=str)
def test_a_passing_fault_is_not_seen_by_the_reader(one: Cluster, s3_proxy: FaultProxy, fault: Fault) -> None:
    rule = s3_proxy.inject(fault, method="GET", key="k", times=ATTEMPTS - 1)
    with Milena(one.address) as m:
        assert m.get("k") == VALUE
    assert rule.applied == ATTEMPTS - 1


@pytest.mark.parametrize("fault", REPEATED, ids=str)
def test_a_lasting_fault_is_unavailable_with_the_text_of_s3_and_never_cached(
    one: Cluster, s3_proxy: FaultProxy, fault: Fault
) -> None:
    s3_proxy.inject(fault, method="GET", key="k")
    with router_stub(one.address) as router:
        status, details = rejection(lambda: router.Get(pb.GetRequest(key=b"k"), timeout=5))
        assert status == "UNAVAILABLE"
        assert "S3 get" in details
        if isinstance(fault, Reply):
            assert fault.code in details
        s3_proxy.heal()
        assert router.Get(pb.GetRequest(key=b"k"), timeout=5).value == VALUE
    assert one.nodes[0].metrics().value("milena_cache_outcomes_total", outcome="error") == 1


@pytest.mark.parametrize(("fault", "status", "word"), FINAL, ids=[word for _, _, word in FINAL])
def test_a_fault_that_repeating_cannot_help_is_raised_at_once(
    one: Cluster, s3_proxy: FaultProxy, fault: Fault, status: str, word: str
) -> None:
    rule = s3_proxy.inject(fault, key="k")
    with router_stub(one.address) as router:
        for call in (
            lambda: router.Get(pb.GetRequest(key=b"k")),
            lambda: router.Put(pb.PutRequest(key=b"k", value=b"v")),
        ):
            assert rejection(call)[0] == status
            assert word in rejection(call)[1]
    assert rule.applied == 4, "one attempt each"
    with (
        Milena(one.address) as m,
        pytest.raises(AccessDenied if status == "PERMISSION_DENIED" else FailedPrecondition),
    ):
        m.get("k")


@pytest.mark.parametrize("fault", [INTERNAL_ERROR, SLOW_DOWN, LoseRequest(), Hang()], ids=str)
def test_a_write_is_acknowledged_only_when_s3_has_it(
    one: Cluster, s3: S3Client, s3_proxy: FaultProxy, fault: Fault
) -> None:
    s3_proxy.inject(fault, method="PUT", key="k")
    with Milena(one.address) as m:
        assert m.get("k") == VALUE
        with pytest.raises(OriginUnavailable):
            m.set("k", b"new")
        # Whether it happened is S3's to say, and that is what readers get.
        assert m.get("k") == s3.get_object(Bucket=one.bucket, Key="k")["Body"].read()
        s3_proxy.heal()
        m.set("k", b"newer")
        assert m.get("k") == b"newer"
    assert s3.get_object(Bucket=one.bucket, Key="k")["Body"].read() == b"newer"


def test_a_write_whose_response_was_lost_is_acknowledged_when_a_head_shows_that_s3_has_it(
    one: Cluster, s3: S3Client, s3_proxy: FaultProxy
) -> None:
    with Milena(one.address) as m:
        assert m.get("k") == VALUE
        rule = s3_proxy.inject(LoseResponse(), method="PUT", key="k")
        assert m.set("k", b"new").durability == "through"
        assert m.get("k") == b"new"
    assert s3.get_object(Bucket=one.bucket, Key="k")["Body"].read() == b"new"
    assert rule.applied == 1
    assert one.nodes[0].metrics().value("milena_writeback_conflicts_total") == 0


def test_a_slow_s3_does_not_delay_readers_of_cached_entries(
    start_cluster: StartCluster, s3: S3Client, s3_proxy: FaultProxy
) -> None:
    fresh = {"TTL_SECONDS": "0.2", "GRACE_SECONDS": "0", "REVALIDATE_TIMEOUT_SECONDS": "0.2", "TTL_JITTER": "0"}
    cluster = start_cluster(1, node_env={"S3_TIMEOUT_SECONDS": "20", **fresh})
    s3.put_object(Bucket=cluster.bucket, Key="k", Body=b"v")
    with Milena(cluster.address, retry=RetryPolicy(tokens=0)) as m:
        m.get("k")
        s3_proxy.inject(Delay(3), method="GET", key="k")
        _until_outcome(m, "stale_error")
        started = time.monotonic()
        for _ in range(20):
            assert m.get("k") == b"v"
        assert time.monotonic() - started < 3, "no caller waited for the response that is on its way"


def test_with_s3_stopped_warm_keys_read_cold_ones_are_unavailable_and_all_heals(
    start_cluster: StartCluster, s3: S3Client, s3_proxy: FaultProxy
) -> None:
    short = {"TTL_SECONDS": "1", "GRACE_SECONDS": "0", "TTL_JITTER": "0", "NEGATIVE_TTL_SECONDS": "0"}
    cluster = start_cluster(3, node_env={**NODE, **short})
    keys = [f"warm{i}" for i in range(30)]
    for key in (*keys, "cold"):
        s3.put_object(Bucket=cluster.bucket, Key=key, Body=key.encode())
    with Milena(cluster.address, timeout=3) as m:
        assert len(m.get_many(keys)) == 30
        s3_proxy.reject()
        outcomes = set()

        def all_stale() -> bool:
            found = {key: m.get_entry(key) for key in keys}
            assert all(entry is not None and entry.value == key.encode() for key, entry in found.items())
            seen = {entry.outcome for entry in found.values() if entry is not None}
            outcomes.update(seen)
            return seen == {"stale_error"}

        wait_until("every copy is past its freshness", all_stale, 20)
        assert outcomes <= {"hit", "stale_error"}
        started = time.monotonic()
        with pytest.raises(OriginUnavailable):
            m.get("cold")
        assert time.monotonic() - started < 3.5, "within its deadline"
        with pytest.raises(OriginUnavailable):
            m.set("warm0", b"refused")
        assert m.get("warm0") == b"warm0"
        s3_proxy.accept()
        wait_until("cold keys read again", lambda: _reads(m, "cold"), 10)
        for key in keys:
            s3.put_object(Bucket=cluster.bucket, Key=key, Body=b"new")
        wait_until("every copy is new", lambda: set(m.get_many(keys).values()) == {b"new"}, 20)
        m.set("warm0", b"written")
    assert s3.get_object(Bucket=cluster.bucket, Key="warm0")["Body"].read() == b"written"
    assert all(node.running for node in cluster.nodes)


def _reads(m: Milena, key: str) -> bool:
    try:
        return m.get(key) == key.encode()
    except OriginUnavailable:
        return False


def _until_outcome(m: Milena, outcome: str) -> None:
    def reached() -> bool:
        entry = m.get_entry("k")
        return entry is not None and entry.outcome == outcome

    wait_until(f"a read has the outcome {outcome}", reached, 10)
