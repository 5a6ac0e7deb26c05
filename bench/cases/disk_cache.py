"""Shell. The disk cache of a node: the latency of its hits, its start, and how much it writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from bench.case import Case, Target, Variant
from bench.fixtures import Fixtures

_PROGRAM = "bench.programs.disk.disk_cache"
_VALUES, _READS, _SECONDS = 50_000, 300_000, 5.0


@contextmanager
def _disk_cache(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    scale = fixtures.scale
    values, reads = str(int(_VALUES * scale.seconds)), str(int(_READS * scale.seconds))
    seconds = str(_SECONDS * scale.seconds)
    yield [
        Variant("hits", partial(fixtures.samples, _PROGRAM, "hits", values, seconds)),
        Variant("load", partial(fixtures.samples, _PROGRAM, "load", str(scale.replayed))),
        Variant("amplification", partial(fixtures.samples, _PROGRAM, "amplification", reads)),
    ]


CASES = (
    Case(
        "disk_cache",
        "5,000 hits of 4 KiB a second; the start with a million values; bytes written for each that comes in",
        "p99_ms",
        [],
        _disk_cache,
        [
            Target("hits", "p99_ms", at_most=5.0),
            Target("load", "seconds", at_most=2.0),
            Target("amplification", "written", at_most=1.3),
        ],
    ),
)
