"""Pure. What each worker of a machine gets of its configuration, as variables for the worker's process.

Limits are those of all workers together, and each gets an equal share. Ports count up from the configured ones; the
parent has METRICS_PORT, and the workers the ports after it.
"""

from __future__ import annotations

from milena_cache.configuration.config import MIN_IN_FLIGHT_BYTES, Config
from milena_common.network.addresses import Address

# The directories of the workers' journals, below JOURNAL_DIR, and of their disk caches.
JOURNAL_NAME = "worker-"
# What stands for all addresses of a machine, and its loopback address.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def metrics_address(config: Config, index: int) -> Address:
    """Return the address at which the parent reads the metrics and health of a worker."""
    host = _LOOPBACK.get(config.metrics.host, config.metrics.host)
    return Address(host, config.metrics.port + 1 + index)


def journal_directory(config: Config, index: int) -> str:
    """Return the journal directory of a worker."""
    return f"{config.journal}/{JOURNAL_NAME}{index}"


def worker_variables(config: Config, index: int, machine: str) -> dict[str, str]:
    """Return the variables of worker `index` that differ from those of the parent.

    `machine` is the zone of a worker where none is configured: what fails as one.
    """
    number = config.workers
    addresses = {
        "LISTEN_ADDR": config.listen,
        "ADVERTISE_ADDR": config.advertise,
        "RESP_ADDR": config.resp,
        "RESP_TLS_ADDR": config.resp_tls,
        "TLS_LISTEN_ADDR": config.tls.listen,
        "S3_LISTEN_ADDR": None if config.s3_endpoint is None else config.s3_endpoint.listen,
    }
    disk_cache = {}
    if (settings := config.disk_cache) is not None:
        disk_cache = {
            "DISK_CACHE_DIR": f"{settings.directory}/{JOURNAL_NAME}{index}",
            "DISK_CACHE_BYTES": str(settings.max_bytes // number),
            "DISK_CACHE_WRITE_BYTES_PER_SECOND": str(settings.bytes_per_second // number),
        }
    return {
        **disk_cache,
        **{
            name: str(Address(address.host, address.port + index))
            for name, address in addresses.items()
            if address is not None
        },
        "WORKERS": "1",
        "METRICS_HOST": config.metrics.host,
        "METRICS_PORT": str(config.metrics.port + 1 + index),
        "JOURNAL_DIR": journal_directory(config, index),
        "NODE_ZONE": config.zone or machine,
        "LRU_SIZE": str(max(1, config.max_entries // number)),
        "LRU_BYTES": str(config.max_bytes // number),
        "MAX_IN_FLIGHT_BYTES": str(max(MIN_IN_FLIGHT_BYTES, config.max_in_flight_bytes // number)),
        "DIRTY_MAX_BYTES": str(config.dirty_max_bytes // number),
        "DIRTY_MEMORY_BYTES": str(config.dirty_memory_bytes // number),
        "DIRTY_COPY_BYTES": str(config.dirty_copy_bytes // number),
        "TRACKING_MAX_KEYS": str(max(1, config.tracking_max_keys // number)),
        "RATE_LIMIT": repr(config.rate_limit / number),
    }
