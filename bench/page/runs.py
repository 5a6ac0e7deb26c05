"""Pure. Reads result files, and finds in them what a page shows: measurements with the span of their rounds.

A measurement is the ratio of a variant's sample to a peer's, or a sample that has a bar. Ratios are computed round
by round, as in the summary of a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """A bound of a measurement: at least, or at most, `value`."""

    value: float
    at_most: bool


@dataclass(frozen=True, slots=True)
class Name:
    """What a measurement is of. `peer` is "" where a sample itself has a bar."""

    case: str
    variant: str
    sample: str
    peer: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measurement of one run: its median over the rounds, the lowest and the highest round."""

    name: Name
    median: float
    low: float
    high: float
    bar: Bar | None

    @property
    def met(self) -> bool:
        """True if the median is on the right side of the bar, or there is none."""
        if self.bar is None:
            return True
        return self.median <= self.bar.value if self.bar.at_most else self.median >= self.bar.value


@dataclass(frozen=True, slots=True)
class Run:
    """One result file.

    file: its name
    seconds: the length of one round of a variant
    load: the machine's load average when it began; None where that was not recorded
    machine: facts and versions by name
    cases: the measured cases by name, as they stand in the file
    comparisons: with other builds, as they stand in the file
    """

    file: str
    started: datetime
    rounds: int
    seconds: float
    load: float | None
    machine: Mapping[str, str | int]
    cases: Mapping[str, Any]
    comparisons: Sequence[Any]


def read_run(file: str, text: str) -> Run:
    """Return what the result file named `file` has. Raises ValueError with the reason if it is none."""
    try:
        found = json.loads(text)
        return Run(
            file,
            datetime.fromisoformat(found["started"]),
            int(found["rounds"]),
            float(found["seconds"]),
            found.get("load"),
            dict(found["machine"]),
            {case["case"]: case for case in found["cases"]},
            list(found.get("comparisons", ())),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not a result file: {type(error).__name__}: {error}") from None


def measurements(case: Mapping[str, Any]) -> list[Measurement]:
    """Return the measurements of a case of a result file: those with bars first, then the other ratios."""
    rounds = {row["variant"]: row["rounds"] for row in case["rows"]}
    made: dict[Name, Measurement] = {}
    for target in (verdict["target"] for verdict in case["verdicts"]):
        if isinstance(target, str):
            continue  # of an older build: only its text
        at_most = target["at_least"] is None
        bar = Bar(target["at_most"] if at_most else target["at_least"], at_most)
        name = Name(case["case"], target["variant"], target["sample"], target["peer"])
        made[name] = _measurement(name, rounds, bar)
    for row in case["rows"]:
        for peer in row["ratios"]:
            name = Name(case["case"], row["variant"], case["sample"], peer)
            if name not in made and peer != row["variant"]:
                made[name] = _measurement(name, rounds, None)
    return list(made.values())


def _measurement(name: Name, rounds: Mapping[str, Sequence[Mapping[str, float]]], bar: Bar | None) -> Measurement:
    values = [each[name.sample] for each in rounds[name.variant]]
    if name.peer:
        values = [own / other[name.sample] for own, other in zip(values, rounds[name.peer], strict=True)]
    return Measurement(name, median(values), min(values), max(values), bar)
