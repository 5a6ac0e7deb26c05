"""Pure. The variables of the disk cache."""

from __future__ import annotations

from dataclasses import dataclass

from milena_common.process.env import Environment

MIN_BYTES, DEFAULT_BYTES, MAX_BYTES = 64 * 2**20, 16 * 2**30, 512 * 2**30
MIN_RATE, DEFAULT_RATE, MAX_RATE = 64 * 2**10, 64 * 2**20, 2**40


@dataclass(frozen=True, slots=True)
class DiskCacheSettings:
    """The settings of one node.

    directory: where the segments are; a subdirectory of it for each of several workers
    max_bytes: the greatest size of all files there
    bytes_per_second: how much is written at most
    """

    directory: str
    max_bytes: int
    bytes_per_second: int


def load_disk_cache(env: Environment, workers: int) -> DiskCacheSettings | None:
    """Return the settings; None without DISK_CACHE_DIR. Of several workers, those of all together."""
    directory = env.text("DISK_CACHE_DIR")
    max_bytes = env.size("DISK_CACHE_BYTES", DEFAULT_BYTES, MIN_BYTES, MAX_BYTES)
    rate = env.size("DISK_CACHE_WRITE_BYTES_PER_SECOND", DEFAULT_RATE, MIN_RATE, MAX_RATE)
    if not directory:
        return None
    for name, value, minimum in (
        ("DISK_CACHE_BYTES", max_bytes, workers * MIN_BYTES),
        ("DISK_CACHE_WRITE_BYTES_PER_SECOND", rate, workers * MIN_RATE),
    ):
        if value < minimum:
            env.problem(name, str(value), f"at least {minimum} for {workers} workers (WORKERS)")
    return DiskCacheSettings(directory, max_bytes, rate)
