"""The variables of the disk cache: off by default, and rejected by name."""

from __future__ import annotations

import pytest

from milena_cache.configuration.config import load
from milena_cache.disk_cache.settings import DiskCacheSettings
from milena_cache.workers.plan import worker_variables
from milena_common.api.errors import ConfigError
from milena_common.process.env import Environment

REQUIRED = {"ROUTER_ADDR": "127.0.0.1:50050", "AWS_REGION": "eu-central-1", "S3_BUCKET": "my-bucket"}


def _load(**variables: str) -> DiskCacheSettings | None:
    return load(Environment(REQUIRED | variables), 2**33).disk_cache


def test_there_is_none_without_a_directory() -> None:
    assert _load() is None
    assert _load(DISK_CACHE_BYTES="1GiB") is None


def test_a_directory_is_enough() -> None:
    assert _load(DISK_CACHE_DIR="/ssd") == DiskCacheSettings("/ssd", 16 * 2**30, 64 * 2**20)
    more = {"DISK_CACHE_BYTES": "100GiB", "DISK_CACHE_WRITE_BYTES_PER_SECOND": "10MiB"}
    assert _load(DISK_CACHE_DIR="/ssd", **more) == DiskCacheSettings("/ssd", 100 * 2**30, 10 * 2**20)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DISK_CACHE_BYTES", "63MiB"),
        ("DISK_CACHE_BYTES", "many"),
        ("DISK_CACHE_BYTES", "1TiB"),
        ("DISK_CACHE_WRITE_BYTES_PER_SECOND", "0"),
    ],
)
def test_what_is_out_of_range_is_rejected_by_name(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable}: got '{value}'; allowed: bytes from"):
        _load(DISK_CACHE_DIR="/ssd", **{variable: value})


def test_each_worker_has_a_directory_and_a_share_of_its_own() -> None:
    variables = {"WORKERS": "4", "DISK_CACHE_DIR": "/ssd", "DISK_CACHE_BYTES": "1GiB"}
    config = load(Environment(REQUIRED | variables), 2**33)
    of_worker = worker_variables(config, 3, "machine")
    assert of_worker["DISK_CACHE_DIR"] == "/ssd/worker-3"
    assert load(Environment(REQUIRED | of_worker), 2**33).disk_cache == DiskCacheSettings(
        "/ssd/worker-3", 2**28, 16 * 2**20
    )
    assert "DISK_CACHE_DIR" not in worker_variables(
        load(Environment(REQUIRED | {"WORKERS": "4"}), 2**33), 3, "machine"
    )
    with pytest.raises(ConfigError, match=r"DISK_CACHE_BYTES: .* at least 268435456 for 4 workers"):
        _load(WORKERS="4", DISK_CACHE_DIR="/ssd", DISK_CACHE_BYTES="255MiB")
