"""What each worker gets of a machine's configuration."""

from __future__ import annotations

import pytest

from milena_cache.configuration.config import Config, load
from milena_cache.workers.plan import metrics_address, worker_variables
from milena_common.api.errors import ConfigError
from milena_common.network.addresses import Address
from milena_common.process.env import Environment

REQUIRED = {"ROUTER_ADDR": "http://r:1", "S3_BUCKET": "bucket", "AWS_REGION": "eu-central-1"}
GIB = 2**30


def machine(cores: int = 1, **variables: str) -> Config:
    return load(Environment(REQUIRED | variables), 8 * GIB, cores)


def worker(config: Config, index: int) -> Config:
    """Load the configuration as the process of the worker does, whatever the machine's memory is."""
    variables = worker_variables(config, index, "machine")
    return load(Environment(REQUIRED | variables), 64 * GIB)


def test_ports_count_up_and_the_parent_has_the_first_one_for_metrics() -> None:
    config = machine(
        WORKERS="3", LISTEN_ADDR="0.0.0.0:50051", RESP_ADDR="0.0.0.0:6379", ADVERTISE_ADDR="host:50051"
    )
    second = worker(config, 1)
    assert second.workers == 1
    assert second.listen == Address("0.0.0.0", 50052)
    assert second.advertise == Address("host", 50052)
    assert second.resp == Address("0.0.0.0", 6380)
    assert second.metrics == Address("0.0.0.0", 9093)
    assert metrics_address(config, 1) == Address("127.0.0.1", 9093)
    ports = [(port.variable, port.address.port) for port in config.ports]
    assert ports == [
        *(("LISTEN_ADDR", 50051 + each) for each in range(3)),
        *(("RESP_ADDR", 6379 + each) for each in range(3)),
        *(("METRICS_PORT", 9091 + each) for each in range(4)),
    ]


def test_a_server_that_is_off_stays_off() -> None:
    assert "RESP_ADDR" not in worker_variables(machine(WORKERS="2", RESP_ADDR="off"), 0, "machine")


def test_limits_are_shared_equally() -> None:
    config = machine(
        WORKERS="4",
        LRU_SIZE="1000",
        LRU_BYTES="4GiB",
        DIRTY_MAX_BYTES="400",
        DIRTY_MEMORY_BYTES="100",
        DIRTY_COPY_BYTES="200",
        MAX_IN_FLIGHT_BYTES="1GiB",
        TRACKING_MAX_KEYS="8",
        RATE_LIMIT="10",
    )
    first = worker(config, 0)
    assert (first.max_entries, first.max_bytes, first.max_in_flight_bytes) == (250, GIB, GIB // 4)
    assert (first.dirty_max_bytes, first.dirty_memory_bytes, first.dirty_copy_bytes) == (100, 25, 50)
    assert (first.tracking_max_keys, first.rate_limit) == (2, 2.5)


def test_a_share_is_never_less_than_what_a_node_needs() -> None:
    first = worker(machine(WORKERS="4", LRU_SIZE="1", MAX_IN_FLIGHT_BYTES="1MiB", TRACKING_MAX_KEYS="1"), 0)
    assert (first.max_entries, first.max_in_flight_bytes, first.tracking_max_keys) == (1, 2**20, 1)


def test_derived_limits_are_those_of_nodes_with_a_part_of_the_memory_each() -> None:
    first = worker(machine(WORKERS="4"), 0)
    alone = load(Environment(REQUIRED), 2 * GIB)
    assert first.max_bytes == alone.max_bytes
    assert first.max_in_flight_bytes == alone.max_in_flight_bytes
    assert first.dirty_memory_bytes == alone.dirty_memory_bytes


def test_journals_and_the_zone() -> None:
    config = machine(WORKERS="2", JOURNAL_DIR="/var/lib/milena")
    assert worker(config, 1).journal == "/var/lib/milena/worker-1"
    assert worker(config, 1).zone == "machine"
    assert worker(machine(WORKERS="2", NODE_ZONE="rack 7"), 1).zone == "rack 7"


@pytest.mark.parametrize(("text", "cores", "workers"), [("", 8, 1), ("1", 8, 1), ("auto", 8, 8), ("AUTO", 500, 64)])
def test_the_number_of_workers(text: str, cores: int, workers: int) -> None:
    assert machine(cores, WORKERS=text).workers == workers


@pytest.mark.parametrize("number", ["0", "65", "-1", "two", "1.5", "²"])
def test_a_wrong_number_names_what_is_allowed(number: str) -> None:
    with pytest.raises(ConfigError, match=r"WORKERS: got .*; allowed: auto, or a whole number from 1 to 64"):
        machine(WORKERS=number)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LISTEN_ADDR", "127.0.0.1:0"),
        ("RESP_ADDR", "127.0.0.1:65535"),
        ("METRICS_PORT", "0"),
        ("METRICS_PORT", "65534"),
    ],
)
def test_each_worker_needs_a_port_that_is_known(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        machine(**{"WORKERS": "2", name: value})
    assert [line.partition(":")[0] for line in caught.value.problems] == [name]


def test_workers_have_ports_with_tls_only() -> None:
    tls = {"TLS": "on", "TLS_CERT_FILE": "c", "TLS_KEY_FILE": "k", "ROUTER_ADDR": "https://r:1"}
    found = worker_variables(machine(WORKERS="2", RESP_TLS_ADDR="127.0.0.1:6380", **tls), 1, "here")
    assert found["RESP_TLS_ADDR"] == "127.0.0.1:6381"


def test_each_worker_has_an_s3_endpoint_of_its_own() -> None:
    parent = machine(WORKERS="2", S3_LISTEN_ADDR="127.0.0.1:9000", S3_ANONYMOUS="true")
    assert worker_variables(parent, 1, "here")["S3_LISTEN_ADDR"] == "127.0.0.1:9001"
    assert "S3_LISTEN_ADDR" not in worker_variables(machine(WORKERS="2"), 1, "here")
