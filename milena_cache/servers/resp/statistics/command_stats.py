"""Pure. What INFO tells of each command and of errors, since the start or CONFIG RESETSTAT: plain integers."""

from __future__ import annotations


class CommandCounts:
    """One command's. `calls` are those that were begun; `seconds` from their coming to their answer, in all.

    `rejected` were not begun; `failed` were, and answered by an error.
    """

    __slots__ = ("calls", "failed", "rejected", "seconds")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.rejected = 0
        self.failed = 0


class CommandStats(dict[str, CommandCounts]):
    """Counts by the command's name, there from the first use. `errors` are answers by their code word."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[str, int] = {}

    def __missing__(self, name: str) -> CommandCounts:
        self[name] = counts = CommandCounts()
        return counts

    def erred(self, line: bytes) -> None:
        """An error was answered: `line`, with its minus sign."""
        word = line[1:].split(b" ", 1)[0].strip().decode(errors="replace")
        self.errors[word] = self.errors.get(word, 0) + 1

    def reset(self) -> None:
        """In place: who counts keeps what it has looked up."""
        for counts in self.values():
            counts.reset()
        self.errors.clear()
