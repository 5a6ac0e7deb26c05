"""Coordination. What a node knows of its reads from samples of them, as the API and the servers give it out."""

from __future__ import annotations

from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.origin.requests import OriginCounts
from milena_cache.sampling.hot_keys import HotKeys
from milena_cache.sampling.sizing import Sizing, Traffic

# Requests to S3 that cost as much as a GET, and as a PUT. Deletes cost nothing.
_GETS = ("get", "head", "bucket")
_PUTS = ("put", "copy", "multipart", "part", "list")


class Samples:
    """The estimates of one node: of the memory that it needs, and of its hot keys."""

    def __init__(self, sizing: Sizing, hot_keys: HotKeys) -> None:
        self.sizing = sizing
        self.hot_keys = hot_keys


def traffic_of(reads: ReadCounts, origin: OriginCounts) -> Traffic:
    """Return what a node has counted since its start."""
    hits = reads.hits
    return Traffic(hits + reads.misses, hits, origin.total(*_GETS), origin.total(*_PUTS))
