"""The node's configuration: defaults, and rejections that name the variable and what is allowed."""

from __future__ import annotations

import pytest

from milena_cache.configuration.config import load, variables
from milena_cache.objects.names import Buckets
from milena_common.api.errors import AccessDenied, ConfigError, InvalidRequest
from milena_common.limits.memory_limit import memory_limit
from milena_common.limits.memory_shares import BASE_BYTES
from milena_common.network.addresses import Address
from milena_common.process.env import Environment

REQUIRED = {"ROUTER_ADDR": "http://router:50050", "AWS_REGION": "eu-central-1", "S3_BUCKET": "my-bucket"}


def test_the_defaults_need_only_router_region_and_bucket() -> None:
    config = load(Environment(REQUIRED), memory_limit=1000)
    assert config.listen == Address("127.0.0.1", 50051)
    assert config.routers == (Address("router", 50050),)
    assert config.metrics == Address("127.0.0.1", 9091)
    assert config.max_entries == 10_000
    assert config.freshness.ttl == 3600
    assert config.buckets == Buckets("my-bucket", "", frozenset())
    assert config.advertise is None
    assert config.rate_limit == 0


MIB = 2**20


@pytest.mark.parametrize("limit", [400 * MIB, 2**30, 4 * 2**30])
def test_the_defaults_together_fit_in_the_memory_limit(limit: int) -> None:
    config = load(Environment(REQUIRED), limit)
    shares = config.max_bytes + config.dirty_memory_bytes + config.max_in_flight_bytes
    assert shares + BASE_BYTES <= limit
    assert config.max_bytes >= limit // 16
    assert config.dirty_memory_bytes == limit // 8
    assert config.max_in_flight_bytes >= limit // 4


def test_one_largest_value_with_its_copies_fits_in_the_bytes_in_flight_of_a_gigabyte() -> None:
    config = load(Environment(REQUIRED), 2**30)
    assert config.max_in_flight_bytes >= 3 * config.max_value_bytes


def test_a_second_node_with_the_defaults_would_want_all_ports_of_the_first() -> None:
    config = load(Environment(REQUIRED), 1000)
    assert [(port.address.port, port.variable) for port in config.ports] == [
        (50051, "LISTEN_ADDR"),
        (6379, "RESP_ADDR"),
        (9091, "METRICS_PORT"),
    ]
    without = load(Environment(REQUIRED | {"RESP_ADDR": "off", "METRICS_PORT": "0"}), 1000)
    assert [(port.address.port, port.variable) for port in without.ports] == [
        (50051, "LISTEN_ADDR"),
        (0, "METRICS_PORT"),
    ]


def test_several_routers_and_buckets_are_lists() -> None:
    more = {"ROUTER_ADDR": "a:1, http://b:2 ,a:1", "S3_BUCKETS": "one-more, *", "ADVERTISE_ADDR": "http://me:5"}
    config = load(Environment(REQUIRED | more), 1000)
    assert config.routers == (Address("a", 1), Address("b", 2))
    assert config.buckets.others == {"one-more", "*"}
    assert config.advertise == Address("me", 5)


def test_routers_with_https_are_called_with_tls() -> None:
    config = load(Environment(REQUIRED | {"ROUTER_ADDR": "https://a:1,https://b:2"}), 1000)
    assert config.routers == (Address("a", 1), Address("b", 2))
    assert config.routers_tls
    assert config.tls.files is not None
    assert not load(Environment(REQUIRED), 1000).routers_tls


def test_with_tls_only_no_router_is_called_without() -> None:
    tls = {"TLS": "on", "TLS_CERT_FILE": "c", "TLS_KEY_FILE": "k"}
    with pytest.raises(ConfigError, match=r"ROUTER_ADDR: .*https://host:port with TLS=on"):
        load(Environment(REQUIRED | tls), 1000)


def test_nothing_set_names_all_that_is_required() -> None:
    with pytest.raises(ConfigError) as caught:
        load(Environment({}), 1000)
    assert sorted(line.split(":")[0] for line in caught.value.problems) == [
        "AWS_REGION",
        "ROUTER_ADDR",
        "S3_BUCKET",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LISTEN_ADDR", "nowhere"),
        ("LISTEN_ADDR", "h:99999"),
        ("ADVERTISE_ADDR", "0.0.0.0:1"),
        ("ROUTER_ADDR", "https://router:50050,other:50050"),
        ("TLS_LISTEN_ADDR", "0.0.0.0:50061"),
        ("ROUTER_ADDR", "router"),
        ("RATE_LIMIT", "-1"),
        ("NODE_WEIGHT", "-1"),
        ("LRU_SIZE", "0"),
        ("LRU_SIZE", "many"),
        ("LRU_BYTES", "-5"),
        ("LRU_BYTES", "10 bananas"),
        ("TTL_SECONDS", "-1"),
        ("TTL_SECONDS", "nan"),
        ("TTL_SECONDS", "1e99"),
        ("TTL_JITTER", "2"),
        ("METRICS_PORT", "70000"),
        ("S3_BUCKET", "No"),
        ("S3_BUCKETS", "ok-bucket,NOT_OK"),
        ("S3_PREFIX", "p" * 1024),
        ("S3_ENDPOINT_URL", "localhost:9000"),
        ("S3_ENDPOINT_URL", "http://127.0.0.1:99999"),
        ("S3_ENDPOINT_URL", "http://:9000"),
        ("S3_ENDPOINT_URL", "http://my_s3:9000"),
        ("S3_RETRIES", "1.5"),
        ("S3_CONCURRENCY", "0"),
        ("MAX_VALUE_BYTES", "5TB"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("AWS_REGION", "\udcff"),
    ],
)
def test_an_absurd_value_is_rejected_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Environment(REQUIRED | {name: value}), 1000)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{name}: got ")
    assert "allowed: " in caught.value.problems[0]


def test_all_problems_come_at_once() -> None:
    wrong = {"LRU_SIZE": "x", "TTL_SECONDS": "y", "METRICS_PORT": "z"}
    with pytest.raises(ConfigError) as caught:
        load(Environment(REQUIRED | wrong), 1000)
    assert {line.split(":")[0] for line in caught.value.problems} == set(wrong)


def test_variables_names_all_that_is_read() -> None:
    assert set(REQUIRED) | {"LRU_BYTES", "LOG_FORMAT", "S3_CONCURRENCY"} <= variables()


def test_this_machine_has_memory() -> None:
    assert memory_limit() > 2**20


BUCKETS = Buckets("main-bucket", "team/", frozenset({"second-bucket"}))


def test_every_spelling_of_the_default_bucket_is_one_object() -> None:
    spelled = {BUCKETS.resolve(name, b"k") for name in ("", "default", "main-bucket")}
    assert len(spelled) == 1
    (found,) = spelled
    assert (found.cache_key, str(found.ref)) == (b"k", "s3://main-bucket/team/k")


def test_another_bucket_has_no_prefix_and_its_own_cache_key() -> None:
    found = BUCKETS.resolve("second-bucket", b"k")
    assert (found.cache_key, str(found.ref)) == (b"s3://second-bucket/k", "s3://second-bucket/k")


def test_a_bucket_must_be_allowed_and_a_name() -> None:
    with pytest.raises(AccessDenied, match=r"third-bucket.*S3_BUCKETS"):
        BUCKETS.resolve("third-bucket", b"k")
    with pytest.raises(InvalidRequest, match="bucket"):
        BUCKETS.resolve("Third_Bucket", b"k")
    assert Buckets("main-bucket", "", {"*"}).resolve("third-bucket", b"k").ref.bucket == "third-bucket"


def test_a_key_that_is_too_long_with_the_prefix_is_rejected() -> None:
    BUCKETS.resolve("", b"k" * 1019)
    with pytest.raises(InvalidRequest, match="S3_PREFIX"):
        BUCKETS.resolve("", b"k" * 1020)
