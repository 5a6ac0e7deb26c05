"""Pure. Values that INFO derives from the server's counts: growth a second, and growth since CONFIG RESETSTAT.

The counts themselves are never reset: the metrics export them, and a decrease would look like a restart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

# Samples over which INFO's instantaneous values are computed; one is taken at each sweep of the server.
SAMPLES = 5


class Rates:
    """The rates of counts by name. Times are seconds of any clock that does not go back."""

    def __init__(self, now: float) -> None:
        self.started = now
        self._baseline: Mapping[str, int] = {}
        self._samples: deque[tuple[float, Mapping[str, int]]] = deque(maxlen=SAMPLES)

    def sample(self, now: float, counts: Mapping[str, int]) -> None:
        """Record the counts at `now`."""
        self._samples.append((now, counts))

    def per_second(self, name: str) -> float:
        """Return the growth a second of a count over the samples; 0 with fewer than two samples."""
        if len(self._samples) < 2:
            return 0.0
        (began, first), (finished, last) = self._samples[0], self._samples[-1]
        return (last[name] - first[name]) / (finished - began) if finished > began else 0.0

    def since_reset(self, counts: Mapping[str, int]) -> dict[str, int]:
        return {name: count - self._baseline.get(name, 0) for name, count in counts.items()}

    def restart(self, counts: Mapping[str, int]) -> None:
        self._baseline = counts
        self._samples.clear()
