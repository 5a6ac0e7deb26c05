"""The compose stack: valid, safe on a laptop, and started in an order that works."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from milena_common.limits.memory_shares import BASE_BYTES
from milena_common.network.addresses import Address
from milena_common.s3.signing.identities import parse_keys
from tests.stack import environment
from tests.stack.files import MONITORING, ROOT, load_yaml

FILE = ROOT / "docker-compose.yml"
WITH_ETCD = ROOT / "docker-compose.etcd.yml"
NODES = ("cache1", "cache2", "cache3")
PROCESSES = ("router", *NODES)
PUBLISHED = {
    "router": {50050: 50050, 6380: 6380, 9010: 9010, 9090: 9090},
    "cache1": {50051: 50051, 6381: 6381, 9001: 9001, 9091: 9091},
    "cache2": {50052: 50052, 6382: 6382, 9002: 9002, 9092: 9092},
    "cache3": {50053: 50053, 6383: 6383, 9003: 9003, 9093: 9093},
    "s3": {9000: 5000},
    "prometheus": {9095: 9090},
    "grafana": {3000: 3000},
}


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """`${NAME}`, `${NAME-default}` and `${NAME:-default}`, as Compose fills them in."""

    def value(found: re.Match[str]) -> str:
        name, operator, default = found[1], found[2], found[3]
        given = variables.get(name)
        if given is None or (operator == ":-" and not given):
            return default or ""
        return given

    return re.sub(r"\$\{(\w+)(?:(:?-)([^}]*))?\}", value, text)


def services() -> dict[str, Any]:
    """By name, with anchors and merges resolved."""
    found: dict[str, Any] = load_yaml(FILE)["services"]
    return found


def variables_of(service: str, **given: str) -> dict[str, str]:
    """A service's environment when the user's shell or `.env` has `given`."""
    return {name: interpolate(str(value), given) for name, value in services()[service]["environment"].items()}


def memory_limit(service: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([mg])", services()[service]["mem_limit"]).groups()  # type: ignore[union-attr]
    return int(number) * {"m": 2**20, "g": 2**30}[unit]


@pytest.mark.parametrize("file", [FILE, WITH_ETCD], ids=lambda file: file.name)
def test_the_file_follows_the_compose_specification(file: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "version" not in load_yaml(file)


def test_with_etcd_three_equal_routers_have_one_ring_and_nodes_and_ports_of_their_own() -> None:
    overlay: dict[str, Any] = load_yaml(WITH_ETCD)["services"]
    assert set(overlay) == {"etcd", "router", "router2", "router3", *NODES}
    assert re.fullmatch(r"[\w/.]+:v?\d+\.\d+\.\d+", overlay["etcd"]["image"])
    base = variables_of("router")
    configs = [
        environment.router(
            {**base, **{name: interpolate(str(value), {}) for name, value in overlay[each]["environment"].items()}}
        )
        for each in ("router", "router2", "router3")
    ]
    assert configs[0] == configs[1] == configs[2]
    assert configs[0].etcd is not None
    assert configs[0].etcd.endpoints == (Address("etcd", 2379),)
    for name in NODES:
        config = environment.cache({**variables_of(name), **overlay[name]["environment"]})
        assert [address.host for address in config.routers] == ["router", "router2", "router3"]
    outside = [port for ports in PUBLISHED.values() for port in ports]
    for text in (text for name in ("router2", "router3") for text in overlay[name]["ports"]):
        host, port, _ = text.split(":")
        assert host == "127.0.0.1"
        outside.append(int(port))
    assert len(outside) == len(set(outside))
    for name in ("router2", "router3"):
        same = {
            key: value for key, value in services()["router"].items() if key in ("image", "mem_limit", "cap_drop")
        }
        assert same.items() <= overlay[name].items()
        assert "build" not in overlay[name]


def test_the_services() -> None:
    assert set(services()) == {*PUBLISHED, "bucket"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_ports_are_published_to_this_machine_only(name: str) -> None:
    published = {}
    for text in services()[name]["ports"]:
        host, outside, inside = text.split(":")
        assert host == "127.0.0.1"
        published[int(outside)] = int(inside)
    assert published == PUBLISHED[name]


def test_no_port_is_published_twice() -> None:
    outside = [port for ports in PUBLISHED.values() for port in ports]
    assert len(outside) == len(set(outside))


def test_images_are_pinned() -> None:
    for name, service in services().items():
        if service["image"] != "milena:local":
            assert re.fullmatch(r"[\w/.]+:v?\d+\.\d+\.\d+", service["image"]), name


def test_one_service_builds_the_image_that_all_processes_run() -> None:
    own = {name: service for name, service in services().items() if service["image"] == "milena:local"}
    assert set(own) == set(PROCESSES)
    assert [name for name, service in own.items() if "build" in service] == ["router"]
    assert {own[name]["pull_policy"] for name in NODES} == {"never"}
    assert all("router" in own[name]["depends_on"] for name in NODES)


def test_services_wait_for_what_they_need() -> None:
    for name, service in services().items():
        for needed, terms in service.get("depends_on", {}).items():
            one_shot = needed == "bucket"
            assert terms["condition"] == ("service_completed_successfully" if one_shot else "service_healthy"), name
            assert one_shot or "healthcheck" in services()[needed], needed
    for name in NODES:
        assert set(services()[name]["depends_on"]) == {"router", "s3", "bucket"}


def test_everything_that_stays_up_is_checked() -> None:
    assert {name for name, service in services().items() if "healthcheck" not in service} == {"bucket"}


@pytest.mark.parametrize("name", PROCESSES)
def test_the_health_check_uses_the_processes_own_port(name: str) -> None:
    variables = variables_of(name)
    load = environment.router if name == "router" else environment.cache
    url = re.search(r"http://127\.0\.0\.1:\d+/readyz", services()[name]["healthcheck"]["test"][-1])
    assert url is not None
    assert url[0] == f"http://127.0.0.1:{load(variables).metrics.port}/readyz"


@pytest.mark.parametrize("name", PROCESSES)
def test_processes_get_the_time_to_stop_and_no_rights(name: str) -> None:
    service = services()[name]
    drain = 0 if name == "router" else environment.cache(variables_of(name)).drain
    assert int(service["stop_grace_period"].removesuffix("s")) >= drain + 20
    assert service["read_only"] is True
    assert service["mem_limit"]


def test_the_time_to_drain_cannot_outgrow_the_time_to_stop() -> None:
    assert variables_of("cache1", DRAIN_SECONDS="3600")["DRAIN_SECONDS"] == "20"


def test_every_node_has_a_journal_of_its_own_that_outlasts_its_container() -> None:
    volumes = set()
    for name in NODES:
        (mount,) = services()[name]["volumes"]
        volume, path = mount.split(":")
        assert path == environment.cache(variables_of(name)).journal
        assert path in (ROOT / "Dockerfile").read_text()
        volumes.add(volume)
    assert len(volumes) == len(NODES)
    # Copies of one service would share its volume.
    assert not [name for name, service in services().items() if {"scale", "deploy"} & set(service)]


def test_how_writes_are_made_can_be_said_from_outside() -> None:
    given = {
        "WRITE_MODE": "through",
        "WRITE_CONFLICT": "keep-both",
        "FLUSH_DELAY_MS": "0",
        "DIRTY_MAX_BYTES": "2GiB",
        "COPIES": "3",
        "COPIES_POLICY": "require",
        "COPY_TIMEOUT_MS": "500",
    }
    assert given.items() <= variables_of("cache1", **given).items()
    assert environment.cache(variables_of("cache1", **given)) != environment.cache(variables_of("cache1"))


def test_no_service_has_more_rights_than_it_needs() -> None:
    for service in services().values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service


def test_the_router_starts_with_nothing_set() -> None:
    config = environment.router(variables_of("router"))
    assert config.listen == ("0.0.0.0", 50050)
    assert config.metrics == ("0.0.0.0", 9090)
    assert (config.resp, config.resp_advertise_host) == (("0.0.0.0", 6380), "router")
    assert config.direct_access
    assert config.s3_endpoint is not None
    assert config.s3_endpoint.listen == ("0.0.0.0", 9010)


def test_direct_access_can_be_switched_off_from_outside() -> None:
    assert not environment.router(variables_of("router", DIRECT_ACCESS="false")).direct_access


def test_the_limits_of_router_and_nodes_are_two() -> None:
    given = {"RATE_LIMIT": "7", "NODE_RATE_LIMIT": "5"}
    assert environment.router(variables_of("router", **given)).rate_limit == 7
    assert environment.cache(variables_of("cache1", **given)).rate_limit == 5
    assert environment.cache(variables_of("cache1", RATE_LIMIT="7")).rate_limit == 0


@pytest.mark.parametrize("name", NODES)
def test_a_node_may_open_as_many_files_as_it_takes_connections(name: str) -> None:
    connections = environment.cache(variables_of(name)).resp_max_connections
    assert services()[name]["ulimits"]["nofile"] > 2 * connections


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_node_starts_with_nothing_set(number: int) -> None:
    name = f"cache{number}"
    config = environment.cache(variables_of(name), memory_limit(name))
    assert config.listen == ("0.0.0.0", 50050 + number)
    assert config.advertise == Address(name, 50050 + number)
    assert config.metrics == ("0.0.0.0", 9090 + number)
    # The same number inside and outside, so that a reply MOVED can be followed from outside too.
    assert config.resp == ("0.0.0.0", 6380 + number)
    assert 6380 + number in PUBLISHED[name]
    # The same number too: a signature has the port that the client has called.
    assert config.s3_endpoint is not None
    assert config.s3_endpoint.listen == ("0.0.0.0", 9000 + number)
    assert not config.s3_endpoint.anonymous
    assert config.routers == (Address("router", 50050),)
    assert config.s3.endpoint_url == "http://s3:5000"
    assert config.buckets.default == "milena"
    shares = config.max_bytes + config.dirty_memory_bytes + config.max_in_flight_bytes
    assert 0.8 * memory_limit(name) < shares + BASE_BYTES <= memory_limit(name)


@pytest.mark.parametrize("name", NODES)
def test_a_node_has_access_keys_which_another_file_replaces(name: str) -> None:
    endpoint = environment.cache(variables_of(name)).s3_endpoint
    assert endpoint is not None
    assert services()[name]["secrets"] == [Path(endpoint.keys_file).name]
    assert Path(endpoint.keys_file).parent == Path("/run/secrets")
    file = load_yaml(FILE)["secrets"]["s3-keys"]["file"]
    assert list(parse_keys((ROOT / interpolate(file, {})).read_bytes())) == ["milena"]
    assert interpolate(file, {"S3_KEYS_FILE": "/home/me/keys"}) == "/home/me/keys"


def test_a_real_bucket_instead_of_the_stand_in() -> None:
    given = {
        "S3_BUCKET": "photos",
        "AWS_REGION": "eu-west-1",
        "S3_ENDPOINT_URL": "",
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
    }
    variables = variables_of("cache1", **given)
    config = environment.cache(variables)
    assert (config.buckets.default, config.s3.region, config.s3.endpoint_url) == ("photos", "eu-west-1", "")
    assert variables["AWS_ACCESS_KEY_ID"] == ""


def test_the_bucket_is_made_in_the_stand_in_and_nowhere_else() -> None:
    bucket = services()["bucket"]
    assert interpolate(bucket["entrypoint"][-1], {}) == "http://s3:5000/milena"
    assert (
        interpolate(bucket["entrypoint"][-1], {"S3_ENDPOINT_URL": "https://elsewhere"}) == "http://s3:5000/milena"
    )
    assert "environment" not in bucket


def test_mounted_files_exist() -> None:
    for service in services().values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists()
                assert volume.endswith(":ro")
            else:
                assert source in load_yaml(FILE)["volumes"]


def test_grafana_finds_its_data_source_and_dashboard() -> None:
    mounts = dict(volume.split(":")[:2] for volume in services()["grafana"]["volumes"])
    inside = {target: ROOT / source for source, target in mounts.items() if source.startswith(".")}
    provisioning = inside["/etc/grafana/provisioning"]
    (provider,) = load_yaml(provisioning / "dashboards" / "milena.yml")["providers"]
    assert (inside[provider["options"]["path"]] / "milena.json").exists()
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == provider["options"]["path"] + "/milena.json"
    (source,) = load_yaml(provisioning / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    scraped = load_yaml(MONITORING / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped


def test_prometheus_scrapes_every_process() -> None:
    jobs = {job["job_name"]: job for job in load_yaml(MONITORING / "prometheus.yml")["scrape_configs"]}
    targets = {name: job["static_configs"][0]["targets"] for name, job in jobs.items()}
    assert targets["milena-router"] == ["router:9090"]
    assert targets["milena-cache"] == [f"cache{number}:{9090 + number}" for number in (1, 2, 3)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_services_come_back_and_their_logs_are_bounded(name: str) -> None:
    service = services()[name]
    assert service["restart"] == "unless-stopped"
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
