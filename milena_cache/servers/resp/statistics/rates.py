"""Pure. What INFO reckons from the door's counts: growth a second, and growth since CONFIG RESETSTAT.

The counts themselves only grow: the metrics show them, and a reset there would look like a restart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

# "Lately" in INFO's instantaneous values: so many samples, one at each sweep of the door.
SAMPLES = 5


class Rates:
    """Time is passed in, in seconds on any clock that does not go back. Counts come by name."""

    def __init__(self, now: float) -> None:
        self.started = now
        self._baseline: Mapping[str, int] = {}
        self._samples: deque[tuple[float, Mapping[str, int]]] = deque(maxlen=SAMPLES)

    def sample(self, now: float, counts: Mapping[str, int]) -> None:
        """The counts as they are now."""
        self._samples.append((now, counts))

    def per_second(self, name: str) -> float:
        """The growth of a count over the samples; 0 while there are no two."""
        if len(self._samples) < 2:
            return 0.0
        (began, first), (finished, last) = self._samples[0], self._samples[-1]
        return (last[name] - first[name]) / (finished - began) if finished > began else 0.0

    def since_reset(self, counts: Mapping[str, int]) -> dict[str, int]:
        return {name: count - self._baseline.get(name, 0) for name, count in counts.items()}

    def reset(self, counts: Mapping[str, int]) -> None:
        self._baseline = counts
        self._samples.clear()
