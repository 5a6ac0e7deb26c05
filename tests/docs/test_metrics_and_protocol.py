"""The references of metrics, outcomes, statuses and methods against what the processes have."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import promql_parser
import pytest
from prometheus_client import CollectorRegistry

from milena_cache.app import build_servers, metrics_registry
from milena_cache.membership.identity import NodeIdentity
from milena_cache.objects.read_outcomes import HITS, MISSES
from milena_cache.servers.resp.commands.registry import command_registry
from milena_cache.workers.merged_metrics import WorkerState, worker_metrics
from milena_cache.writeback.recovery import Replay
from milena_common.access.guarding import guard_process
from milena_common.access.settings import AccessSettings
from milena_common.api import errors
from milena_common.api.durability import DURABILITIES
from milena_common.api.errors import MilenaError
from milena_common.api.pb import cache_server_pb2, router_server_pb2
from milena_common.metrics.certificates import certificate_metrics
from milena_common.metrics.http_server import LIVE_PATHS, READY_PATHS
from milena_common.rpc.status import to_grpc
from milena_common.tls.certificates import Certificates
from milena_router.metrics import etcd_metrics, redis_metrics, router_registry
from milena_router.shared.shared_leases import StoreCounts
from tests.cache.disk_cache.memory_files import MemoryFiles
from tests.cache.node_under_test import NodeUnderTest
from tests.docs.documents import DOCUMENTS, ROOT, blocks, section, text
from tests.router.router_under_test import Router
from tests.stack.queries import rules
from tests.stack.test_monitoring import PROMISED
from tests.support.certificates import Authority, write_files

OPERATIONS_GUIDE = ROOT / "docs" / "operations.md"
PROTOCOL = ROOT / "docs" / "protocol.md"
PACKAGES = {"milena_common", "milena_client", "milena_router", "milena_cache"}


def sample_names(registry: CollectorRegistry) -> set[str]:
    """What a scrape can have in it of Milena's own; a histogram counts as one name."""
    endings = {"counter": "_total", "histogram": "", "gauge": "", "unknown": ""}
    return {
        metric.name + endings[metric.type] for metric in registry.collect() if metric.name.startswith("milena_")
    }


@pytest.fixture(scope="module")
def real_metrics() -> set[str]:
    return asyncio.run(_real_metrics())


async def _real_metrics() -> set[str]:
    harness = NodeUnderTest(files=MemoryFiles())
    servers = build_servers(harness.config, harness.parts, "127.0.0.1:50051", NodeIdentity("", ""), lambda: False)
    guarding = guard_process(AccessSettings(), harness.parts.clock, ())
    node = metrics_registry(harness.parts, servers, Replay(0, 0), guarding=guarding)
    router = Router(0)
    with TemporaryDirectory() as folder:
        authority = Authority()
        certificates = Certificates(write_files(Path(folder), authority.pem, authority.issue()))
    tls = {f"{metric.name}{'_total' * (metric.type == 'counter')}" for metric in certificate_metrics(certificates)}
    states = [WorkerState(True, 0)]
    workers = {f"{metric.name}{'_total' * (metric.type == 'counter')}" for metric in worker_metrics(states)}
    etcd = {f"{metric.name}{'_total' * (metric.type == 'counter')}" for metric in etcd_metrics(StoreCounts())}
    redis = {f"{metric.name}{'_total' * (metric.type == 'counter')}" for metric in redis_metrics(router.redis)}
    return (
        etcd
        | tls
        | workers
        | sample_names(node)
        | redis
        | sample_names(router_registry(router.calls, router.leases, router.limiter, router.watchers, router.budget))
    )


def test_the_reference_has_every_metric_and_no_other(real_metrics: set[str]) -> None:
    reference = section(OPERATIONS_GUIDE, "Metrics")
    assert set(re.findall(r"`(milena_\w+)`", reference)) == real_metrics


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_metrics_that_are_named_exist(document: Path, real_metrics: set[str]) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    named = set(re.findall(r"(?<![\w:/])milena_\w+", text(document))) - PACKAGES
    named = {name for name in named if not re.match(rf"{re.escape(name)}[./]", name)}
    unknown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in named} - real_metrics
    assert unknown <= recorded


def test_promql_parses_and_the_promised_expressions_stand_as_they_are() -> None:
    quoted = [block.text.strip() for block in blocks("promql")]
    for expression in quoted:
        promql_parser.parse(expression)
    assert set(PROMISED) <= set(quoted)


def test_every_outcome_is_explained() -> None:
    rows_of = re.findall(r"^\| `(\w+)` \| (hit|miss) \|", section(PROTOCOL, "Outcomes"), re.MULTILINE)
    assert dict(rows_of) == {**dict.fromkeys(HITS, "hit"), **dict.fromkeys(set(MISSES) - {"error"}, "miss")}
    assert "`error`" in section(PROTOCOL, "Outcomes")


def subclasses(kind: type[MilenaError]) -> set[type[MilenaError]]:
    found = set(kind.__subclasses__())
    return {each for each in found | {below for each in found for below in subclasses(each)} if is_public(each)}


def is_public(kind: type[MilenaError]) -> bool:
    return getattr(errors, kind.__name__, None) is kind


def test_every_status_that_is_sent_is_in_the_table() -> None:
    table = re.findall(r"^\| ([A-Z_]+) \| `([A-Z]+)` \|", section(PROTOCOL, "Statuses"), re.MULTILINE)
    never_sent = {errors.ConfigError, errors.KeyNotFound, errors.BatchError}
    sent = subclasses(MilenaError) - never_sent - {errors.Moved}
    examples = [*(kind("because") for kind in sent), errors.Moved(1, "127.0.0.1:1")]
    expected = {(to_grpc(error)[0].name, error.code) for error in examples}
    assert set(table) == expected


def test_every_durability_class_is_explained() -> None:
    explained = re.findall(r"^\| `(\w+)` \|", section(PROTOCOL, "Durability"), re.MULTILINE)
    assert set(explained) == set(DURABILITIES)


def test_every_method_is_in_the_protocol() -> None:
    router_methods = router_server_pb2.DESCRIPTOR.services_by_name["Router"].methods_by_name
    methods = section(PROTOCOL, "Methods of the router")
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", methods, re.MULTILINE)) == set(router_methods)
    for method in cache_server_pb2.DESCRIPTOR.services_by_name["Cache"].methods_by_name:
        assert f"`{method}`" in methods.partition("`cache_server.Cache`")[2]


def test_every_command_of_the_redis_protocol_is_in_the_table() -> None:
    known = {
        name
        for command in command_registry().values()
        for name in (command.name, *(below.name.replace("|", " ") for below in command.subcommands))
    }
    chapter = section(PROTOCOL, "The Redis protocol").partition("### Commands\n")[2].partition("\n### ")[0]
    cells = re.findall(r"^\| (`[A-Z][^|]*) \|", chapter, re.MULTILINE)
    named = {name.lower() for cell in cells for name in re.findall(r"`([^`]+)`", cell)} | {
        "milena.call",
        "milena.hello",
    }
    assert named <= {name.lower() for name in known}
    assert {name.split()[0] for name in named} == {name.lower().split()[0] for name in known}


def test_every_path_of_the_metrics_port_is_in_the_protocol() -> None:
    health = section(PROTOCOL, "Health")
    for paths in (LIVE_PATHS, READY_PATHS):
        assert f"| {', '.join(f'`{path}`' for path in paths)} |" in health
