"""Shell. The disk cache of a node: the latency of its hits, its start, and how much it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from bench.case import Case, Target, Variant
from bench.fixtures import Fixtures, Scale

_PROGRAM = "bench.programs.disk.disk_cache"
_VALUES, _READS, _SECONDS = 50_000, 300_000, 5.0


def _run(
    what: str, numbers: Callable[[Scale], Sequence[float]]
) -> Callable[[Fixtures], AbstractContextManager[Sequence[Variant]]]:
    """Return what opens a case of one variant, whose program gets `numbers`."""

    @contextmanager
    def opened(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
        arguments = [f"{number:g}" if number % 1 else str(int(number)) for number in numbers(fixtures.scale)]
        yield [Variant("node", partial(fixtures.samples, _PROGRAM, what, *arguments))]

    return opened


CASES = (
    Case(
        "disk_cache_hits",
        "reads of 4 KiB from the disk cache, 5,000 a second",
        "p99_ms",
        [],
        _run("hits", lambda scale: (_VALUES * scale.seconds, _SECONDS * scale.seconds)),
        [Target("node", "p99_ms", at_most=5.0)],
    ),
    Case(
        "disk_cache_load",
        "a start that finds a million values in the disk cache",
        "seconds",
        [],
        _run("load", lambda scale: (scale.replayed,)),
        [Target("node", "seconds", at_most=2.0)],
    ),
    Case(
        "disk_cache_writes",
        "bytes written to the disk cache for each byte that comes in",
        "written",
        [],
        _run("amplification", lambda scale: (_READS * scale.seconds,)),
        [Target("node", "written", at_most=1.3)],
    ),
)
