"""Pure. The router's configuration: parsed from the environment, with every problem reported at once.

Every variable has a default that works and limits that are checked here, before anything starts.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from milena_common.api.errors import ConfigError
from milena_common.api.keys import MAX_VALUE_BYTES
from milena_common.limits.memory_shares import in_flight_share
from milena_common.network.addresses import Address, Port
from milena_common.process import logs
from milena_common.process.env import Environment
from milena_router.ring.recovery import NODE_RETRY_SECONDS


@dataclass(frozen=True, slots=True)
class Config:
    """The settings from the environment; `docs/configuration.md` explains each variable and its consequence."""

    listen: Address
    metrics: Address
    rate_limit: float
    lease_seconds: float
    ring_recovery: float
    max_value_bytes: int
    max_in_flight_bytes: int
    request_timeout: float
    direct_access: bool
    fast_death: bool
    log_level: str
    log_format: str

    @property
    def ports(self) -> tuple[Port, ...]:
        """Return the ports that the router listens on."""
        return Port(self.listen, "LISTEN_ADDR"), Port(self.metrics, "METRICS_PORT")


def load(env: Environment, memory_limit: int) -> Config:
    """Return the configuration; `memory_limit` in bytes. Raises ConfigError with every problem."""
    listen = env.address("LISTEN_ADDR", "127.0.0.1:50050", lowest_port=0)
    max_value_bytes = env.size("MAX_VALUE_BYTES", 64 * 2**20, 1, MAX_VALUE_BYTES)
    config = Config(
        listen=listen,
        metrics=Address(env.host("METRICS_HOST", listen.host), env.integer("METRICS_PORT", 9090, 0, 65535)),
        rate_limit=env.number("RATE_LIMIT", 100, 0, 1e9, "requests a second, 0 for no limit,"),
        lease_seconds=(lease := env.seconds("LEASE_SECONDS", 5, 0.3, 3600)),
        ring_recovery=env.seconds("RING_RECOVERY_SECONDS", max(lease, NODE_RETRY_SECONDS), 0, 3600),
        max_value_bytes=max_value_bytes,
        max_in_flight_bytes=env.size(
            "MAX_IN_FLIGHT_BYTES", in_flight_share(memory_limit, max_value_bytes), 2**20, 2**44
        ),
        request_timeout=env.seconds("REQUEST_TIMEOUT_SECONDS", 5, 0.1, 3600),
        direct_access=env.choice("DIRECT_ACCESS", "true", ("true", "false")) == "true",
        fast_death=env.choice("FAST_DEATH", "on", ("on", "off")) == "on",
        log_level=env.choice("LOG_LEVEL", "info", logs.LEVELS),
        log_format=env.choice("LOG_FORMAT", "json", logs.FORMATS),
    )
    env.check()
    return config


def variables() -> frozenset[str]:
    """Return the name of every variable that is read."""
    env = Environment({})
    with suppress(ConfigError):
        load(env, 0)
    return frozenset(env.read_names)
