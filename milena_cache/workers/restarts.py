"""Pure. When a worker that has ended by itself is started again, and the exit code of the parent."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from milena_common.runtime.backoff import Backoff

BACKOFF = Backoff(first=1.0, max_delay=30.0)
# A worker that ran for so many seconds has not failed at its start: the delays begin anew.
STEADY_SECONDS = 60.0
# The exit code of a process with a wrong environment, which another start does not make right.
EXIT_ENVIRONMENT = 2

# Exit codes, from the best to the worst; a code that is not here is worse than all of them.
_CODES = (0, 3, EXIT_ENVIRONMENT, 1)


class Restarts:
    """The restarts of one worker. `failures` counts its ends in a row, each soon after its start."""

    def __init__(self) -> None:
        self.failures = 0

    def delay(self, code: int, seconds: float, rng: Callable[[], float]) -> float | None:
        """Return the seconds until a worker is started that ended with `code` after `seconds`; None: never."""
        if code == EXIT_ENVIRONMENT:
            return None
        self.failures = 1 if seconds >= STEADY_SECONDS else self.failures + 1
        return BACKOFF.delay(self.failures, rng)


def exit_code(returned: int) -> int:
    """Return the exit code that a shell reports; of a process that a signal has ended: 128 and the signal."""
    return 128 - returned if returned < 0 else returned


def worst(codes: Iterable[int]) -> int:
    """Return the worst of the workers' exit codes: 0 only if all are 0."""
    return max(codes, key=lambda code: (_CODES.index(code) if code in _CODES else len(_CODES), code), default=0)
