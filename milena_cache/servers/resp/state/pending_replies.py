"""Pure. Answers that are due: what a connection keeps of a command until its answer has its turn, and how much."""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.dispatch.command import Access, Command
from milena_cache.servers.resp.state.tracking import Work

Reply = tuple[bytes, ...]

# Commands of one connection that may wait for their answers at once, and bytes of their words.
MAX_PENDING = 1024
MAX_PENDING_BYTES = 32 * 2**20

# From this size a value is not copied together with other answers.
LARGE = 32 * 1024


class Large(tuple[bytes, ...]):
    """An answer with a large value among its pieces."""

    __slots__ = ()


class PendingReply:
    """A place in the order of answers; `reply` is None until it is there. `name` is the command's or subcommand's.

    `muted`: the client wants no answer. `touched`: the keys for whose sake others wait for it, and what it does to
    them.
    """

    __slots__ = ("argv", "command", "deferred", "muted", "name", "reply", "started", "touched", "work")

    def __init__(
        self, reply: Reply | None, command: Command[Any], name: str, argv: list[bytes], started: float
    ) -> None:
        self.reply = reply
        self.command = command
        self.name = name
        self.argv = argv
        self.started = started
        self.touched: tuple[Access, list[bytes]] = ("none", [])
        self.deferred = 0
        self.muted = False
        self.work: Work | None = None


class CommandsInFlight:
    """The commands that were begun and have no answer yet. `full`: no other may begin."""

    __slots__ = ("bytes", "full", "number")

    def __init__(self) -> None:
        self.number = 0
        self.full = False
        self.bytes = 0

    def begin(self, argv: list[bytes]) -> None:
        self._count(1, argv)

    def end(self, argv: list[bytes]) -> None:
        self._count(-1, argv)

    def _count(self, one: int, argv: list[bytes]) -> None:
        self.number += one
        self.bytes += one * sum(map(len, argv))
        self.full = self.number >= MAX_PENDING or self.bytes >= MAX_PENDING_BYTES
