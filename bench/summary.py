"""Pure. Summarizes rounds as medians, spreads, ratios and verdicts.

Ratios are computed round by round, since variants of one round share the state of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.case import Case, Samples, Skipped, Target


@dataclass(frozen=True, slots=True)
class Row:
    """A variant over all rounds.

    `spread`: from the lowest to the highest round of the case's sample, as a share of its median. `ratios`: for
    each peer, the median of the rounds' ratios to it.
    """

    variant: str
    rounds: Sequence[Samples]
    medians: Samples
    spread: float
    ratios: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, with the measured value."""

    target: Target
    measured: float
    met: bool


@dataclass(frozen=True, slots=True)
class Result:
    """The results of a case."""

    case: str
    about: str
    sample: str
    peers: Sequence[str]
    rows: Sequence[Row]
    verdicts: Sequence[Verdict]
    skipped: Sequence[Skipped]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the `share` quantile (0 to 1) of the ascending, non-empty `ordered`, by nearest rank."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summarize(case: Case, rounds: Mapping[str, Sequence[Samples]], skipped: Sequence[Skipped] = ()) -> Result:
    """Return the result of a case. `rounds` has, for each variant, its samples in every round; equal numbers for
    all.
    """
    peers = {name: rounds[name] for name in case.peers if name in rounds}
    rows = {name: _row(name, own, case.sample, peers) for name, own in rounds.items()}
    verdicts = []
    for target in case.targets:
        if target.variant in rows and (not target.peer or target.peer in peers):
            row = rows[target.variant]
            measured = row.medians[target.sample]
            if target.peer:
                measured = _ratio(target.sample, rounds[target.variant], peers[target.peer])
            verdicts.append(Verdict(target, measured, target.met(measured)))
    return Result(case.name, case.about, case.sample, list(peers), list(rows.values()), verdicts, skipped)


def _ratio(sample: str, rounds: Sequence[Samples], of_peer: Sequence[Samples]) -> float:
    """Return the median of the rounds' ratios to a peer."""
    return median(own[sample] / other[sample] for own, other in zip(rounds, of_peer, strict=True))


def _row(name: str, rounds: Sequence[Samples], sample: str, peers: Mapping[str, Sequence[Samples]]) -> Row:
    medians = {key: median(each[key] for each in rounds) for key in rounds[0]}
    values = [each[sample] for each in rounds]
    ratios = {peer: _ratio(sample, rounds, of_peer) for peer, of_peer in peers.items()}
    return Row(name, rounds, medians, (max(values) - min(values)) / medians[sample], ratios)
