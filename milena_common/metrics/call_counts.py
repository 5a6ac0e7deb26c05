"""Pure. Counts of the calls that a process serves: plain integers, exported at a scrape.

Servers count every call exactly once, by operation, whatever its outcome.
"""

from __future__ import annotations

from milena_common.metrics.histogram import Histogram


class OperationCounts:
    """Requests, errors by code, and durations (seconds) of one operation.

    `moved` counts requests that got the address of the owning node as reply, which is not an error.
    """

    __slots__ = ("durations", "errors", "moved", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.moved = 0
        self.errors: dict[str, int] = {}
        self.durations = Histogram()

    def count_error(self, code: str) -> None:
        self.errors[code] = self.errors.get(code, 0) + 1


class CallCounts:
    """The counts of a server's operations, by operation name."""

    def __init__(self, operations: tuple[str, ...]) -> None:
        self.by_operation = {name: OperationCounts() for name in operations}

    def __getitem__(self, operation: str) -> OperationCounts:
        return self.by_operation[operation]

    @property
    def requests(self) -> int:
        return sum(counts.requests for counts in self.by_operation.values())

    @property
    def errors(self) -> int:
        return sum(sum(counts.errors.values()) for counts in self.by_operation.values())
