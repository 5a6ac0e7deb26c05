"""Pure. The cache node's configuration: parsed from the environment, with every problem reported at once.

Every variable has a default that works or is required, and limits that are checked here, before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from milena_cache.disk_cache.settings import DiskCacheSettings, load_disk_cache
from milena_cache.eviction.policies import EVICTION_POLICIES, LRU
from milena_cache.membership.node_fence import FENCED_READS, FencedReads
from milena_cache.memory.freshness import Freshness
from milena_cache.objects.names import ANY_BUCKET, Buckets
from milena_cache.objects.write_request import COPIES_POLICIES, CopiesPolicy
from milena_cache.origin.conditions import CONDITIONS_MODES, ConditionsMode
from milena_cache.origin.s3.event_queue import EventSettings, load_events
from milena_cache.origin.s3.settings import S3Settings, load_s3
from milena_cache.sampling.sizing import Prices
from milena_cache.writeback.uploads.upload import POLICIES, Policy
from milena_common.access.settings import AccessSettings, load_access
from milena_common.api.durability import BACK, DURABILITIES, Durability
from milena_common.api.errors import ConfigError, InvalidRequest
from milena_common.api.keys import MAX_KEY_BYTES, MAX_VALUE_BYTES, check_bucket
from milena_common.limits.memory_shares import dirty_share, in_flight_share, lru_share
from milena_common.network.addresses import ALLOWED, Address, Port, parse_address
from milena_common.process import logs
from milena_common.process.env import Environment
from milena_common.s3.settings import EndpointSettings, load_endpoint
from milena_common.tls.settings import TlsConfig
from milena_common.tls.variables import check_cluster_identity, load_tls

C = TypeVar("C", bound=str)

DAY = 86400.0
YEAR = 366 * DAY

# The share of REQUEST_TIMEOUT_SECONDS after which a read without response headers is sent once more.
HEDGE_SHARE = 1 / 3

# The values of COPIES.
DEFAULT_COPIES, MAX_COPIES = 2, 3
# Characters of a zone.
MAX_ZONE = 200

MAX_WORKERS = 64
# Of 1,000 requests, or of a gigabyte.
MAX_PRICE = 1000
# Of NOTIFY_KEYSPACE_EVENTS, as Redis has them.
EVENT_LETTERS = "Ag$lshzxeKEtmdn"
MAX_PORT = 65535
MIN_IN_FLIGHT_BYTES = 2**20
# Smaller blocks would be mostly overhead; a group of larger ones would exceed what one reply should have.
MIN_BLOCK_BYTES, MAX_BLOCK_BYTES = 4 * 2**10, 8 * 2**20


@dataclass(frozen=True, slots=True)
class Config:
    """The settings from the environment; `docs/configuration.md` explains each variable and its consequence.

    `events` is None where S3 reports its changes to no queue, `disk_cache` where there is none. `advertise` is None
    where the advertised address must be derived, `resp` where the RESP server has no plain port, `resp_tls` where
    it has no encrypted one, `s3_endpoint` where there is none. With several `workers` the limits are those of all
    together, and the ports those of the first.
    """

    workers: int
    listen: Address
    advertise: Address | None
    metrics: Address
    resp: Address | None
    resp_tls: Address | None
    s3_endpoint: EndpointSettings | None
    tls: TlsConfig
    resp_max_connections: int
    resp_idle: float
    resp_output_bytes: int
    resp_forward: bool
    allow_flush: str
    notify_keyspace_events: str
    tracking_max_keys: int
    routers: tuple[Address, ...]
    routers_tls: bool
    rate_limit: float
    weight: float
    zone: str
    max_entries: int
    max_bytes: int
    eviction_policy: str
    disk_cache: DiskCacheSettings | None
    prices: Prices
    freshness: Freshness
    revalidate_timeout: float
    request_timeout: float
    max_value_bytes: int
    block_threshold: int
    block_bytes: int
    max_in_flight_bytes: int
    buckets: Buckets
    s3: S3Settings
    events: EventSettings | None
    s3_retries: int
    s3_concurrency: int
    fenced_reads: FencedReads
    s3_conditions: ConditionsMode
    write_mode: Durability
    journal: str
    dirty_max_bytes: int
    dirty_memory_bytes: int
    dirty_copy_bytes: int
    copies: int
    copies_policy: CopiesPolicy
    copy_timeout: float
    dirty_max_age: float
    flush_delay: float
    flush_concurrency: int
    write_conflict: Policy
    stuck_after: float
    drain: float
    handover_bytes_per_second: float
    tombstone_seconds: float
    access: AccessSettings
    log_level: str
    log_format: str

    @property
    def library_variables(self) -> Mapping[str, str]:
        """Variables that libraries have to find in the environment when they are imported."""
        return self.tls.library_variables

    @property
    def ports(self) -> tuple[Port, ...]:
        """Return the ports that the node listens on; a second node with defaults on one machine collides on all of
        them. Of several workers: those of all of them, and of their parent.
        """
        if self.workers > 1:
            return tuple(
                Port(Address(port.address.host, port.address.port + each), port.variable, port.alternative)
                for port in self._first_ports
                for each in range(self.workers + (port.variable == "METRICS_PORT"))
            )
        return self._first_ports

    @property
    def _first_ports(self) -> tuple[Port, ...]:
        resp = () if self.resp is None else (Port(self.resp, "RESP_ADDR", ", or to off"),)
        tls = ((self.tls.listen, "TLS_LISTEN_ADDR"), (self.resp_tls, "RESP_TLS_ADDR"))
        encrypted = (Port(address, variable) for address, variable in tls if address is not None)
        s3 = () if self.s3_endpoint is None else (Port(self.s3_endpoint.listen, "S3_LISTEN_ADDR"),)
        return Port(self.listen, "LISTEN_ADDR"), *resp, *encrypted, *s3, Port(self.metrics, "METRICS_PORT")

    @property
    def hedge_after(self) -> float:
        """Return the seconds without response headers after which a read of S3 is sent once more.

        Within the default deadline there is enough time for the second request. Where S3_TIMEOUT_SECONDS is
        shorter, the attempt has failed by then, and is repeated instead.
        """
        return self.request_timeout * HEDGE_SHARE


def load(env: Environment, memory_limit: int, cores: int = 1) -> Config:
    """Return the configuration; `memory_limit` in bytes, `cores` for WORKERS=auto.

    Raises ConfigError with every problem.
    """
    workers = _workers(env, cores)
    share = memory_limit // workers
    listen = env.address("LISTEN_ADDR", "127.0.0.1:50051", lowest_port=0)
    advertise = env.address("ADVERTISE_ADDR", str(listen), lowest_port=0)
    advertised = bool(env.text("ADVERTISE_ADDR"))
    if advertised and (advertise.is_wildcard or not advertise.port):
        env.problem("ADVERTISE_ADDR", str(advertise), "an address that others can call, with a port")
    resp_tls = env.address("RESP_TLS_ADDR", "127.0.0.1:0", lowest_port=0) if env.text("RESP_TLS_ADDR") else None
    routers, routers_tls = _routers(env)
    tls = load_tls(env, resp_tls, routers_tls)
    if tls.mode == "on" and routers and not routers_tls:
        env.problem("ROUTER_ADDR", ",".join(map(str, routers)), "https://host:port with TLS=on")
    max_value_bytes = env.size("MAX_VALUE_BYTES", 64 * 2**20, 1, MAX_VALUE_BYTES)
    in_flight = env.size(
        "MAX_IN_FLIGHT_BYTES", workers * in_flight_share(share, max_value_bytes), MIN_IN_FLIGHT_BYTES, 2**44
    )
    dirty_max = env.size("DIRTY_MAX_BYTES", 2**30, 0, 2**44)
    dirty_memory = env.size("DIRTY_MEMORY_BYTES", workers * dirty_share(share), 0, 2**44)
    s3 = load_s3(env)
    ttl = env.seconds("TTL_SECONDS", 3600, 0, YEAR)
    lru_bytes = workers * lru_share(share, in_flight // workers, dirty_memory // workers)
    config = Config(
        workers=workers,
        listen=listen,
        advertise=advertise if advertised else None,
        metrics=Address(env.host("METRICS_HOST", listen.host), env.integer("METRICS_PORT", 9091, 0, 65535)),
        resp=_resp(env),
        resp_tls=resp_tls,
        s3_endpoint=load_endpoint(env),
        tls=tls,
        resp_max_connections=env.integer("RESP_MAX_CONNECTIONS", 10_000, 1, 10**6),
        resp_idle=env.seconds("RESP_IDLE_SECONDS", 0, 0, YEAR),
        resp_output_bytes=env.size("RESP_OUTPUT_BYTES", 64 * 2**20, 2**10, 2**40),
        notify_keyspace_events=_event_letters(env),
        allow_flush=env.choice("ALLOW_FLUSH", "no", ("no", "cache", "objects")),
        resp_forward=env.choice("RESP_FORWARD", "on", ("on", "off")) == "on",
        tracking_max_keys=env.integer("TRACKING_MAX_KEYS", 1_000_000, 1, 10**9),
        routers=routers,
        routers_tls=routers_tls,
        rate_limit=env.number("RATE_LIMIT", 0, 0, 1e9, "requests a second, 0 for no limit,"),
        weight=env.number("NODE_WEIGHT", 1, 0.001, 1000),
        zone=_zone(env),
        max_entries=env.integer("LRU_SIZE", 10_000, 1, 10**9),
        max_bytes=env.size("LRU_BYTES", lru_bytes, 0, 2**50),
        eviction_policy=env.choice("EVICTION_POLICY", LRU, EVICTION_POLICIES),
        disk_cache=load_disk_cache(env, workers),
        prices=Prices(
            get=env.number("S3_PRICE_GET", 0.0004, 0, MAX_PRICE),
            put=env.number("S3_PRICE_PUT", 0.005, 0, MAX_PRICE),
            gigabyte=env.number("S3_PRICE_GB", 0, 0, MAX_PRICE),
        ),
        freshness=Freshness(
            ttl=ttl,
            jitter=env.number("TTL_JITTER", 0.1, 0, 1),
            grace=env.seconds("GRACE_SECONDS", 60, 0, YEAR),
            keep=env.seconds("KEEP_SECONDS", DAY, 0, YEAR),
            stale_if_error=env.seconds("STALE_IF_ERROR_SECONDS", DAY, 0, YEAR),
            negative_ttl=env.seconds("NEGATIVE_TTL_SECONDS", 5, 0, YEAR),
        ),
        revalidate_timeout=env.seconds("REVALIDATE_TIMEOUT_SECONDS", 1, 0.01, 3600),
        request_timeout=env.seconds("REQUEST_TIMEOUT_SECONDS", 5, 0.1, 3600),
        max_value_bytes=max_value_bytes,
        block_threshold=env.size("BLOCK_THRESHOLD", 8 * 2**20, 1, 2**40),
        block_bytes=env.size("BLOCK_BYTES", 2**20, MIN_BLOCK_BYTES, MAX_BLOCK_BYTES),
        max_in_flight_bytes=in_flight,
        buckets=_buckets(env),
        s3=s3,
        events=load_events(env, s3, ttl, YEAR),
        s3_retries=env.integer("S3_RETRIES", 3, 0, 20),
        s3_concurrency=env.integer("S3_CONCURRENCY", 128, 1, 10_000),
        fenced_reads=_one_of(env, "FENCED_READS", "refuse", FENCED_READS),
        s3_conditions=_one_of(env, "S3_CONDITIONS", "auto", CONDITIONS_MODES),
        write_mode=_one_of(env, "WRITE_MODE", BACK, DURABILITIES),
        journal=env.text("JOURNAL_DIR", f"./milena-journal/{listen.port}"),
        dirty_max_bytes=dirty_max,
        dirty_memory_bytes=dirty_memory,
        dirty_copy_bytes=env.size("DIRTY_COPY_BYTES", dirty_max, 0, 2**44),
        copies=env.integer("COPIES", DEFAULT_COPIES, 1, MAX_COPIES),
        copies_policy=_one_of(env, "COPIES_POLICY", "through", COPIES_POLICIES),
        copy_timeout=env.number("COPY_TIMEOUT_MS", 1000, 10, 60_000, "milliseconds") / 1000,
        dirty_max_age=env.seconds("DIRTY_MAX_AGE_SECONDS", 300, 1, YEAR),
        flush_delay=env.number("FLUSH_DELAY_MS", 100, 0, 3_600_000, "milliseconds") / 1000,
        flush_concurrency=env.integer("FLUSH_CONCURRENCY", 64, 1, 10_000),
        write_conflict=_one_of(env, "WRITE_CONFLICT", "overwrite", POLICIES),
        stuck_after=env.seconds("DEAD_LETTER_AFTER", 600, 1, YEAR),
        drain=env.seconds("DRAIN_SECONDS", 20, 0, 3600),
        handover_bytes_per_second=env.size("HANDOVER_BYTES_PER_SECOND", 64 * 2**20, 0, 2**40),
        tombstone_seconds=env.seconds("TOMBSTONE_SECONDS", 7 * 86_400, 60, 366 * 86_400),
        access=load_access(env),
        log_level=env.choice("LOG_LEVEL", "info", logs.LEVELS),
        log_format=env.choice("LOG_FORMAT", "json", logs.FORMATS),
    )
    _check_workers(env, config)
    if config.events is not None and config.resp is None and config.resp_tls is None:
        env.problem(
            "S3_EVENTS_QUEUE_URL",
            config.events.queue_url,
            "only with RESP_ADDR or RESP_TLS_ADDR, by which nodes tell each other",
        )
    check_cluster_identity(env, config.tls, config.access)
    env.check()
    return config


def _workers(env: Environment, cores: int) -> int:
    if env.text("WORKERS").lower() == "auto":
        return max(1, min(cores, MAX_WORKERS))
    allowed = f"auto, or a whole number from 1 to {MAX_WORKERS}"
    number = env.text("WORKERS", "1")
    if not number.isascii() or not number.isdecimal() or not 1 <= int(number[:9]) <= MAX_WORKERS:
        env.problem("WORKERS", number, allowed)
        return 1
    return int(number)


def _check_workers(env: Environment, config: Config) -> None:
    """Record what several workers cannot have: a free port each, which no client knows."""
    if config.workers == 1:
        return
    allowed = f"a port from 1 to {MAX_PORT}, as the first of {config.workers} (WORKERS)"
    for variable in sorted({port.variable for port in config.ports if not 1 <= port.address.port <= MAX_PORT}):
        env.problem(variable, env.text(variable), allowed)


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """The part of the configuration that is necessary to reach the node's bucket."""

    buckets: Buckets
    s3: S3Settings


def load_store(env: Environment) -> StoreConfig:
    """Return the part of the node's configuration for S3. Raises ConfigError with every problem."""
    config = StoreConfig(_buckets(env), load_s3(env))
    env.check()
    return config


def _event_letters(env: Environment) -> str:
    letters = env.text("NOTIFY_KEYSPACE_EVENTS")
    if any(letter not in EVENT_LETTERS for letter in letters):
        env.problem("NOTIFY_KEYSPACE_EVENTS", repr(letters), f"letters of {EVENT_LETTERS}, as in Redis")
        return ""
    return letters


def _one_of(env: Environment, name: str, default: C, choices: Sequence[C]) -> C:
    chosen = env.choice(name, default, choices)
    return next(choice for choice in choices if choice == chosen)


def _resp(env: Environment) -> Address | None:
    off = env.emptied("RESP_ADDR") or env.text("RESP_ADDR").lower() == "off"
    return None if off else env.address("RESP_ADDR", "127.0.0.1:6379", lowest_port=0)


def _zone(env: Environment) -> str:
    zone = env.text("NODE_ZONE")
    if len(zone) > MAX_ZONE:
        env.problem("NODE_ZONE", zone, f"a text of at most {MAX_ZONE} characters")
    return zone


def _routers(env: Environment) -> tuple[tuple[Address, ...], bool]:
    """Return the addresses of the routers, and True if they are called with TLS."""
    text = env.text("ROUTER_ADDR", required=f"the router's address: {ALLOWED}; several separated by commas")
    routers, encrypted = [], set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            routers.append(parse_address(part.removeprefix("https://")))
            encrypted.add(part.startswith("https://"))
        except ValueError as error:
            env.problem("ROUTER_ADDR", part, f"{ALLOWED} ({error})")
    if len(encrypted) > 1:
        env.problem("ROUTER_ADDR", text, "all with https:// or none")
    return tuple(dict.fromkeys(routers)), encrypted == {True}


def _buckets(env: Environment) -> Buckets:
    default = _bucket(env, "S3_BUCKET", env.text("S3_BUCKET", required="the name of the bucket to cache"))
    prefix = env.text("S3_PREFIX")
    if len(prefix.encode()) >= MAX_KEY_BYTES:
        env.problem("S3_PREFIX", prefix, f"less than {MAX_KEY_BYTES} bytes")
    names = [name.strip() for name in env.text("S3_BUCKETS").split(",") if name.strip()]
    others = frozenset(name if name == ANY_BUCKET else _bucket(env, "S3_BUCKETS", name) for name in names)
    return Buckets(default, prefix, others)


def _bucket(env: Environment, variable: str, name: str) -> str:
    try:
        if name:
            check_bucket(name)
    except InvalidRequest as error:
        env.problem(variable, name, str(error).partition("allowed are ")[2])
    return name


def variables() -> frozenset[str]:
    """Return the name of every variable that is read."""
    env = Environment({})
    with suppress(ConfigError):
        load(env, 0)
    return frozenset(env.read_names)
