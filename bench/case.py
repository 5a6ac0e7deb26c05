"""Pure. The parts of a benchmark case: variants of the same work, some of them peers for comparison.

Absolute numbers depend on the machine as much as on the program. So every case does its work in at least two ways
within the same minute, round by round, and the targets are ratios to the peers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.fixtures import Fixtures

# By name, unit included: {"per_s": 2100.0, "p50_us": 410.0}.
Samples = dict[str, float]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of doing a case's work. Each call of `run` is one round, and returns its samples."""

    name: str
    run: Callable[[], Samples]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A variant that cannot be run here."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for the median of a variant's sample, or for its ratio to that of `peer`."""

    variant: str
    sample: str
    peer: str = ""
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bound = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        compared = f" / {self.peer}" if self.peer else ""
        return f"{self.sample} of {self.variant}{compared}: {bound}"


@dataclass(frozen=True, slots=True)
class Case:
    """A case. `open` prepares the variants; its context releases resources that `Fixtures` does not keep.

    `sample` is compared with that of each of the variants named by `peers`. Skipped peers are omitted, and so are
    targets for such variants or ratios to them.
    """

    name: str
    about: str
    sample: str
    peers: Sequence[str]
    open: Callable[[Fixtures], AbstractContextManager[Sequence[Variant | Skipped]]]
    targets: Sequence[Target] = ()
