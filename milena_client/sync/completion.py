"""Shell. Lets threads wait for the result of a computation of another thread.

`core.cached_results` decides which caller computes.
"""

from __future__ import annotations

import threading

from milena_client.core.cached_results import ABANDONED, Outcome

current_caller = threading.get_ident


class Completion:
    """The outcome of a computation, for threads."""

    def __init__(self) -> None:
        self._finished = threading.Event()
        self._outcome: Outcome = ABANDONED

    def complete(self, outcome: Outcome) -> None:
        """Set `outcome`, and wake the waiting threads."""
        self._outcome = outcome
        self._finished.set()

    def wait(self) -> Outcome:
        """Return the outcome once it is set."""
        self._finished.wait()
        return self._outcome
