"""The router's environment: defaults, and each variable's rejection."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from milena_common.access.settings import AccessSettings
from milena_common.api.errors import ConfigError
from milena_common.network.addresses import Address
from milena_common.process.env import Environment
from milena_common.s3.settings import EndpointSettings
from milena_common.tls.settings import TlsConfig
from milena_router.config import Config, EtcdSettings, load, variables
from milena_router.etcd.security import EtcdSecurity


def test_defaults() -> None:
    assert load(Environment({}), 2**30) == Config(
        listen=Address("127.0.0.1", 50050),
        metrics=Address("127.0.0.1", 9090),
        resp=None,
        resp_tls=None,
        resp_advertise_host="",
        resp_max_connections=10_000,
        rate_limit=100,
        lease_seconds=5,
        ring_recovery=5,
        recovery_wait=60,
        max_value_bytes=64 * 2**20,
        max_in_flight_bytes=2**28,
        request_timeout=5,
        direct_access=True,
        fast_death=True,
        tls=TlsConfig(),
        etcd=None,
        node_networks=(),
        access=AccessSettings(),
        s3_endpoint=None,
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
                "RESP_ADDR": "0.0.0.0:3",
                "RESP_ADVERTISE_HOST": "router",
                "RESP_MAX_CONNECTIONS": "4",
                "RATE_LIMIT": "0",
                "LEASE_SECONDS": "1.5",
                "RING_RECOVERY_SECONDS": "0",
                "RECOVERY_WAIT_SECONDS": "7",
                "MAX_VALUE_BYTES": "1KiB",
                "MAX_IN_FLIGHT_BYTES": "2MiB",
                "REQUEST_TIMEOUT_SECONDS": "2",
                "DIRECT_ACCESS": "False",
                "FAST_DEATH": "off",
                "TLS_RELOAD_SECONDS": "3",
                "ETCD_ENDPOINTS": "https://etcd-0:2379, https://[::1]:2379,https://etcd-0:2379",
                "ETCD_PREFIX": "/photos",
                "ETCD_CA_FILE": "/ca.pem",
                "ETCD_CERT_FILE": "/cert.pem",
                "ETCD_KEY_FILE": "/key.pem",
                "ETCD_USERNAME": "milena",
                "ETCD_PASSWORD_FILE": "/password",
                "NODE_NETWORKS": "10.0.0.0/8, fd00::/8",
                "ACL_FILE": "/users",
                "CLUSTER_TOKEN_FILE": "/token",
                "CLUSTER_CERT_NAMES": "spiffe://cluster/*",
                "REQUIRE_AUTH": "true",
                "AUDIT_LOG": "stdout",
                "AUDIT_KEYS": "plain",
                "S3_LISTEN_ADDR": "0.0.0.0:5",
                "S3_DOMAIN": "S3.example.com",
                "LOG_LEVEL": "DEBUG",
                "LOG_FORMAT": "text",
            }
        ),
        2**30,
    )
    etcd = EtcdSettings(
        (Address("etcd-0", 2379), Address("::1", 2379)),
        "/photos/",
        EtcdSecurity(True, "/ca.pem", "/cert.pem", "/key.pem", "milena", "/password"),
    )
    assert config == Config(
        Address("0.0.0.0", 1),
        Address("127.0.0.2", 2),
        Address("0.0.0.0", 3),
        None,
        "router",
        4,
        0,
        1.5,
        0,
        7,
        1024,
        2**21,
        2,
        False,
        False,
        TlsConfig(reload_seconds=3),
        etcd,
        (ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
        AccessSettings(
            "/users",
            "",
            "/token",
            ("spiffe://cluster/*",),
            require_auth=True,
            audit_log="stdout",
            audit_plain_keys=True,
        ),
        EndpointSettings(Address("0.0.0.0", 5), domain="s3.example.com"),
        "debug",
        "text",
    )


def test_endpoints_without_a_scheme_are_not_encrypted() -> None:
    etcd = load(Environment({"ETCD_ENDPOINTS": "etcd-0:2379"}), 2**30).etcd
    assert etcd == EtcdSettings((Address("etcd-0", 2379),), "/milena/", EtcdSecurity())


@pytest.mark.parametrize(
    ("variables_set", "problem"),
    [
        ({"ETCD_ENDPOINTS": "etcd-0"}, "ETCD_ENDPOINTS: got 'etcd-0'"),
        ({"ETCD_ENDPOINTS": "https://a:1,b:1"}, "ETCD_ENDPOINTS: got .*all with https"),
        ({"ETCD_USERNAME": "milena"}, "ETCD_USERNAME: .*only with ETCD_ENDPOINTS"),
        ({"ETCD_ENDPOINTS": "a:1", "ETCD_CA_FILE": "/ca.pem"}, "ETCD_CA_FILE: .*https"),
        ({"ETCD_ENDPOINTS": "a:1", "ETCD_USERNAME": "milena"}, "ETCD_PASSWORD_FILE: got nothing"),
        ({"ETCD_ENDPOINTS": "https://a:1", "ETCD_KEY_FILE": "/key.pem"}, "ETCD_CERT_FILE: got nothing"),
    ],
)
def test_settings_of_etcd_that_do_not_fit_together_are_rejected(
    variables_set: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(Environment(variables_set), 2**30)


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
        ("RECOVERY_WAIT_SECONDS", "-1"),
        ("MAX_VALUE_BYTES", "0"),
        ("MAX_VALUE_BYTES", "2GiB"),
        ("MAX_IN_FLIGHT_BYTES", "1KiB"),
        ("REQUEST_TIMEOUT_SECONDS", "0"),
        ("DIRECT_ACCESS", "perhaps"),
        ("FAST_DEATH", "maybe"),
        ("NODE_NETWORKS", "10.0.0.1/8"),
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
        "RESP_ADDR",
        "RESP_ADVERTISE_HOST",
        "RESP_MAX_CONNECTIONS",
        "RESP_TLS_ADDR",
        "RATE_LIMIT",
        "LEASE_SECONDS",
        "RING_RECOVERY_SECONDS",
        "RECOVERY_WAIT_SECONDS",
        "MAX_VALUE_BYTES",
        "REQUEST_TIMEOUT_SECONDS",
        "DIRECT_ACCESS",
        "FAST_DEATH",
        "TLS",
        "TLS_CA_FILE",
        "TLS_CERT_FILE",
        "TLS_CLIENT_AUTH",
        "TLS_KEY_FILE",
        "TLS_LISTEN_ADDR",
        "TLS_MIN_VERSION",
        "TLS_RELOAD_SECONDS",
        "TLS_SERVER_NAME",
        "ETCD_CA_FILE",
        "ETCD_CERT_FILE",
        "ETCD_ENDPOINTS",
        "ETCD_KEY_FILE",
        "ETCD_PASSWORD_FILE",
        "ETCD_PREFIX",
        "ETCD_USERNAME",
        "NODE_NETWORKS",
        "ACL_FILE",
        "AUDIT_KEYS",
        "AUDIT_LOG",
        "CLUSTER_CERT_NAMES",
        "CLUSTER_TOKEN",
        "CLUSTER_TOKEN_FILE",
        "REQUIRE_AUTH",
        "S3_DOMAIN",
        "S3_LISTEN_ADDR",
        "LOG_LEVEL",
        "LOG_FORMAT",
    }
