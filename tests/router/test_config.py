"""The router's environment: defaults, and each variable's rejection."""

from __future__ import annotations

import pytest

from milena_common.api.errors import ConfigError
from milena_common.network.addresses import Address
from milena_common.process.env import Environment
from milena_router.config import Config, load, variables


def test_defaults() -> None:
    assert load(Environment({}), 2**30) == Config(
        listen=Address("127.0.0.1", 50050),
        metrics=Address("127.0.0.1", 9090),
        rate_limit=100,
        lease_seconds=5,
        ring_recovery=5,
        max_value_bytes=64 * 2**20,
        max_in_flight_bytes=2**28,
        request_timeout=5,
        direct_access=True,
        fast_death=True,
        log_level="info",
        log_format="json",
    )


def test_every_variable_is_heeded() -> None:
    config = load(
        Environment(
            {
                "LISTEN_ADDR": "0.0.0.0:1",
                "METRICS_HOST": "127.0.0.2",
                "METRICS_PORT": "2",
                "RATE_LIMIT": "0",
                "LEASE_SECONDS": "1.5",
                "RING_RECOVERY_SECONDS": "0",
                "MAX_VALUE_BYTES": "1KiB",
                "MAX_IN_FLIGHT_BYTES": "2MiB",
                "REQUEST_TIMEOUT_SECONDS": "2",
                "DIRECT_ACCESS": "False",
                "FAST_DEATH": "off",
                "LOG_LEVEL": "DEBUG",
                "LOG_FORMAT": "text",
            }
        ),
        2**30,
    )
    assert config == Config(
        Address("0.0.0.0", 1), Address("127.0.0.2", 2), 0, 1.5, 0, 1024, 2**21, 2, False, False, "debug", "text"
    )


@pytest.mark.parametrize(("lease", "seconds"), [("0.3", 5), ("5", 5), ("60", 60)])
def test_recovery_waits_for_a_lease_and_for_the_longest_pause_of_a_node(lease: str, seconds: float) -> None:
    assert load(Environment({"LEASE_SECONDS": lease}), 2**30).ring_recovery == seconds


def test_metrics_are_on_the_host_of_the_server_by_default() -> None:
    assert load(Environment({"LISTEN_ADDR": "[::]:50050"}), 2**30).metrics == Address("::", 9090)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LISTEN_ADDR", "localhost"),
        ("METRICS_HOST", "a/b"),
        ("METRICS_PORT", "-1"),
        ("RATE_LIMIT", "-1"),
        ("RATE_LIMIT", "inf"),
        ("LEASE_SECONDS", "0"),
        ("LEASE_SECONDS", "1e9"),
        ("RING_RECOVERY_SECONDS", "-1"),
        ("MAX_VALUE_BYTES", "0"),
        ("MAX_VALUE_BYTES", "2GiB"),
        ("MAX_IN_FLIGHT_BYTES", "1KiB"),
        ("REQUEST_TIMEOUT_SECONDS", "0"),
        ("DIRECT_ACCESS", "perhaps"),
        ("FAST_DEATH", "maybe"),
        ("LOG_LEVEL", "trace"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_an_absurd_value_is_rejected(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        load(Environment({name: value}), 2**30)
    (problem,) = rejected.value.problems
    assert problem.startswith(f"{name}: got {value!r}; allowed: ")


def test_the_list_of_variables_is_what_is_read() -> None:
    assert variables() == {
        "LISTEN_ADDR",
        "MAX_IN_FLIGHT_BYTES",
        "METRICS_HOST",
        "METRICS_PORT",
        "RATE_LIMIT",
        "LEASE_SECONDS",
        "RING_RECOVERY_SECONDS",
        "MAX_VALUE_BYTES",
        "REQUEST_TIMEOUT_SECONDS",
        "DIRECT_ACCESS",
        "FAST_DEATH",
        "LOG_LEVEL",
        "LOG_FORMAT",
    }
