"""Pure. Counts by command and by error, since the start or CONFIG RESETSTAT, as INFO shows them.

The fast paths keep references to the counts of their command: a reset sets them to zero and replaces none.
"""

from __future__ import annotations

from milena_common.build import interpreted


class CommandCounts:
    """The counts of one command.

    calls: how many began
    seconds: their durations from the beginning to the reply, summed
    rejected: how many were rejected before they began
    failed: how many began and had an error reply
    """

    __slots__ = ("calls", "failed", "rejected", "seconds")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.rejected = 0
        self.failed = 0


@interpreted
class CommandStats(dict[str, CommandCounts]):
    """Counts by the command's name, created at the first use. `errors`: error replies by their code word."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[str, int] = {}

    def __missing__(self, name: str) -> CommandCounts:
        self[name] = counts = CommandCounts()
        return counts

    def erred(self, line: bytes) -> None:
        """Count an error reply: `line` as it is sent, with its minus sign."""
        word = line[1:].split(b" ", 1)[0].strip().decode(errors="replace")
        self.errors[word] = self.errors.get(word, 0) + 1

    def reset(self) -> None:
        """Set all counts to zero, in place."""
        for counts in self.values():
            counts.reset()
        self.errors.clear()
