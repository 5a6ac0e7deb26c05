"""Pure. The router's configuration: parsed from the environment, with every problem reported at once.

Every variable has a default that works and limits that are checked here, before anything starts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from milena_common.access.settings import AccessSettings, load_access
from milena_common.api.errors import ConfigError
from milena_common.api.keys import MAX_VALUE_BYTES
from milena_common.limits.memory_shares import in_flight_share
from milena_common.network.addresses import Address, Port, parse_address
from milena_common.network.allowed_networks import IpNetwork
from milena_common.process import logs
from milena_common.process.env import Environment
from milena_common.s3.settings import EndpointSettings, load_forwarding_endpoint
from milena_common.tls.settings import TlsConfig
from milena_common.tls.variables import check_cluster_identity, load_tls
from milena_router.etcd.security import EtcdSecurity
from milena_router.ring.recovery import NODE_RETRY_SECONDS


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where the routers of one ring keep its state, and how they log in there. `prefix` ends with "/"."""

    endpoints: tuple[Address, ...]
    prefix: str
    security: EtcdSecurity


@dataclass(frozen=True, slots=True)
class Config:
    """The settings from the environment; `docs/configuration.md` explains each variable and its consequence."""

    listen: Address
    metrics: Address
    resp: Address | None
    resp_tls: Address | None
    resp_advertise_host: str
    resp_max_connections: int
    rate_limit: float
    lease_seconds: float
    ring_recovery: float
    recovery_wait: float
    max_value_bytes: int
    max_in_flight_bytes: int
    request_timeout: float
    direct_access: bool
    fast_death: bool
    tls: TlsConfig
    etcd: EtcdSettings | None
    node_networks: tuple[IpNetwork, ...]
    access: AccessSettings
    s3_endpoint: EndpointSettings | None
    log_level: str
    log_format: str

    @property
    def library_variables(self) -> Mapping[str, str]:
        """Variables that libraries have to find in the environment when they are imported."""
        return self.tls.library_variables

    @property
    def ports(self) -> tuple[Port, ...]:
        """Return the ports that the router listens on."""
        more = (
            (self.tls.listen, "TLS_LISTEN_ADDR"),
            (self.resp, "RESP_ADDR"),
            (self.resp_tls, "RESP_TLS_ADDR"),
            (None if self.s3_endpoint is None else self.s3_endpoint.listen, "S3_LISTEN_ADDR"),
        )
        others = (Port(address, variable) for address, variable in more if address is not None)
        return Port(self.listen, "LISTEN_ADDR"), *others, Port(self.metrics, "METRICS_PORT")


def load(env: Environment, memory_limit: int) -> Config:
    """Return the configuration; `memory_limit` in bytes. Raises ConfigError with every problem."""
    listen = env.address("LISTEN_ADDR", "127.0.0.1:50050", lowest_port=0)
    resp_off = env.text("RESP_ADDR").lower() in ("", "off")
    resp = None if resp_off else env.address("RESP_ADDR", "127.0.0.1:6379", lowest_port=0)
    resp_tls = env.address("RESP_TLS_ADDR", "127.0.0.1:0", lowest_port=0) if env.text("RESP_TLS_ADDR") else None
    max_value_bytes = env.size("MAX_VALUE_BYTES", 64 * 2**20, 1, MAX_VALUE_BYTES)
    config = Config(
        listen=listen,
        metrics=Address(env.host("METRICS_HOST", listen.host), env.integer("METRICS_PORT", 9090, 0, 65535)),
        resp=resp,
        resp_tls=resp_tls,
        resp_advertise_host=env.host("RESP_ADVERTISE_HOST", "") if env.text("RESP_ADVERTISE_HOST") else "",
        resp_max_connections=env.integer("RESP_MAX_CONNECTIONS", 10_000, 1, 10**6),
        rate_limit=env.number("RATE_LIMIT", 100, 0, 1e9, "requests a second, 0 for no limit,"),
        lease_seconds=(lease := env.seconds("LEASE_SECONDS", 5, 0.3, 3600)),
        ring_recovery=env.seconds("RING_RECOVERY_SECONDS", max(lease, NODE_RETRY_SECONDS), 0, 3600),
        recovery_wait=env.seconds("RECOVERY_WAIT_SECONDS", 60, 0, 86400),
        max_value_bytes=max_value_bytes,
        max_in_flight_bytes=env.size(
            "MAX_IN_FLIGHT_BYTES", in_flight_share(memory_limit, max_value_bytes), 2**20, 2**44
        ),
        request_timeout=env.seconds("REQUEST_TIMEOUT_SECONDS", 5, 0.1, 3600),
        direct_access=env.choice("DIRECT_ACCESS", "true", ("true", "false")) == "true",
        fast_death=env.choice("FAST_DEATH", "on", ("on", "off")) == "on",
        tls=load_tls(env, resp_tls),
        etcd=_etcd(env),
        node_networks=_networks(env),
        access=load_access(env),
        s3_endpoint=load_forwarding_endpoint(env),
        log_level=env.choice("LOG_LEVEL", "info", logs.LEVELS),
        log_format=env.choice("LOG_FORMAT", "json", logs.FORMATS),
    )
    check_cluster_identity(env, config.tls, config.access)
    env.check()
    return config


def _networks(env: Environment) -> tuple[IpNetwork, ...]:
    networks = []
    for part in filter(None, (part.strip() for part in env.text("NODE_NETWORKS").split(","))):
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError as error:
            env.problem("NODE_NETWORKS", part, f"networks as 10.0.0.0/8, separated by commas ({error})")
    return tuple(networks)


def _etcd(env: Environment) -> EtcdSettings | None:
    """Return the settings of etcd; None without ETCD_ENDPOINTS: the router keeps the ring itself."""
    endpoints, schemes = [], set()
    for part in filter(None, (part.strip() for part in env.text("ETCD_ENDPOINTS").split(","))):
        scheme = "https" if part.startswith("https://") else "http"
        try:
            endpoints.append(parse_address(part.removeprefix("https://")))
            schemes.add(scheme)
        except ValueError as error:
            env.problem("ETCD_ENDPOINTS", part, f"host:port, http://host:port or https://host:port ({error})")
    if len(schemes) > 1:
        env.problem("ETCD_ENDPOINTS", ",".join(map(str, endpoints)), "all with https:// or none")
    names = ("ETCD_CA_FILE", "ETCD_CERT_FILE", "ETCD_KEY_FILE", "ETCD_USERNAME", "ETCD_PASSWORD_FILE")
    ca, certificate, key, username, password_file = map(env.text, names)
    for name, value in zip(names, (ca, certificate, key, username, password_file), strict=True):
        if value and not endpoints:
            env.problem(name, value, "only with ETCD_ENDPOINTS")
        elif value and name in names[:3] and schemes == {"http"}:
            env.problem(name, value, "only with endpoints that begin with https://")
    for (one, value), (other, other_value) in (
        (("ETCD_CERT_FILE", certificate), ("ETCD_KEY_FILE", key)),
        (("ETCD_USERNAME", username), ("ETCD_PASSWORD_FILE", password_file)),
    ):
        if bool(value) != bool(other_value):
            env.problem(other if value else one, "", f"a value, since {one if value else other} is set")
    prefix = env.text("ETCD_PREFIX", "/milena/").rstrip("/") + "/"
    if not endpoints:
        return None
    security = EtcdSecurity(schemes == {"https"}, ca, certificate, key, username, password_file)
    return EtcdSettings(tuple(dict.fromkeys(endpoints)), prefix, security)


def variables() -> frozenset[str]:
    """Return the name of every variable that is read."""
    env = Environment({})
    with suppress(ConfigError):
        load(env, 0)
    return frozenset(env.read_names)
