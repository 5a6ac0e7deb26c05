"""Shell. Compares this tree with another build: both do the same work alternately, and are compared pair by pair.

Each build has its own S3 stubs, router and node, and its own client and benchmark modules in the measuring
processes. Variants of other products are omitted: they are the same for both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

from bench.case import Case, Samples, Variant
from bench.fixtures import Fixtures

_NOT_MILENA = ("redis", "boto3", "bare_grpc", "obstore")
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Compared:
    """One sample of a variant over all pairs: medians of both builds, and the ratios of this one to the other.

    `low` and `high` are the bounds of the 95 % interval of the ratios' median.
    """

    variant: str
    sample: str
    own: float
    other: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All comparisons of a case."""

    case: str
    pairs: int
    rows: Sequence[Compared]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the distribution-free 95 % confidence interval of the median of the population of `values`.

    Its bounds are two of the ordered values. Fewer than six values have none: the lowest and the highest are
    returned.
    """
    ordered = sorted(values)
    number = len(ordered)
    outside, rank = 0.0, 0
    while rank < (number - 1) // 2:
        outside += 2 * comb(number, rank) / 2**number
        if outside > 1 - _CONFIDENCE:
            break
        rank += 1
    rank = max(0, rank - 1)
    return ordered[rank], ordered[-1 - rank]


def compare(variant: str, own: Sequence[Samples], other: Sequence[Samples]) -> list[Compared]:
    """Compare the samples that both builds have; those of `own` and `other` are of the same pairs, in order."""
    rows = []
    for sample in own[0]:
        if sample not in other[0]:
            continue
        pairs = [(mine[sample], theirs[sample]) for mine, theirs in zip(own, other, strict=True)]
        ratios = [mine / theirs for mine, theirs in pairs if theirs]
        if ratios:
            medians = (median(mine for mine, _ in pairs), median(theirs for _, theirs in pairs))
            rows.append(Compared(variant, sample, *medians, median(ratios), *interval(ratios)))
    return rows


def run_against(
    case: Case, own: Fixtures, other: Fixtures, pairs: int, progress: Callable[[str], None]
) -> Comparison:
    """Run Milena's variants `pairs` times with both builds, beginning with each of them in turn.

    A case is opened again each time: while it is open, it may restrict this process and its children to a part of
    the machine's cores, and builds that shared them would not have equal conditions.
    """
    print(f"{case.name}: starting", file=sys.stderr, flush=True)
    found: dict[str, tuple[list[Samples], list[Samples]]] = {}
    for number in range(pairs):
        progress(f"{case.name}: pair {number + 1} of {pairs}")
        for side, fixtures in ((0, own), (1, other))[:: 1 if number % 2 else -1]:
            with case.open(fixtures) as offered:
                for name, variant in _milenas(offered).items():
                    found.setdefault(name, ([], []))[side].append(variant.run())
    rows = [row for name, (mine, theirs) in found.items() if mine and theirs for row in compare(name, mine, theirs)]
    return Comparison(case.name, pairs, rows)


def _milenas(offered: Sequence[object]) -> dict[str, Variant]:
    return {
        each.name: each for each in offered if isinstance(each, Variant) and not each.name.startswith(_NOT_MILENA)
    }


def comparison_table(comparison: Comparison) -> str:
    """Return the aligned rows: this tree, the other build, the median of the ratios, and its interval."""
    lines = [f"{comparison.case}: this tree against the other build, {comparison.pairs} pairs"]
    lines.append(f"  {'':24}{'figure':>10}{'this':>12}{'other':>12}{'ratio':>8}  95 % interval")
    for row in comparison.rows:
        lines.append(
            f"  {row.variant:24}{row.sample:>10}{row.own:12,.1f}{row.other:12,.1f}{row.ratio:8.3f}"
            f"  {row.low:.3f} to {row.high:.3f}"
        )
    return "\n".join(lines) + "\n"
