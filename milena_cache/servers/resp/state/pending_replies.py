"""Pure. Answers that are due: what a connection keeps of a command until its answer has its turn, and how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milena_cache.servers.resp.dispatch.admission import no_room
from milena_cache.servers.resp.dispatch.command import Access, Command, Refused
from milena_cache.servers.resp.state.tracking import Work
from milena_common.api.keys import check_value_size
from milena_common.resp.parser import NoRoom, TooLong

if TYPE_CHECKING:
    from milena_cache.servers.resp.dispatch.session import Session
    from milena_cache.servers.resp.state.context import Context

Answer = tuple[bytes, ...]

# Commands of one connection that may wait for their answers at once, and bytes of their words.
MOST_WAITING = 1024
MOST_WAITING_BYTES = 32 * 2**20

# From this size a value is not copied together with other answers.
LARGE = 32 * 1024


class Large(tuple[bytes, ...]):
    """An answer with a large value among its pieces."""

    __slots__ = ()


class Waiting:
    """A place in the order of answers; `answer` is None until it is there. `name` is the command's or subcommand's.

    `muted`: the client wants no answer. `touched`: the keys for whose sake others wait for it, and what it does to
    them.
    """

    __slots__ = ("answer", "command", "deferred", "muted", "name", "started", "touched", "words", "work")

    def __init__(
        self, answer: Answer | None, command: Command, name: str, words: list[bytes], started: float
    ) -> None:
        self.answer = answer
        self.command = command
        self.name = name
        self.words = words
        self.started = started
        self.touched: tuple[Access, list[bytes]] = ("none", [])
        self.deferred = 0
        self.muted = False
        self.work: Work | None = None


class InHand:
    """The commands that were begun and have no answer yet. `full`: no other may begin."""

    __slots__ = ("bytes", "full", "number")

    def __init__(self) -> None:
        self.number = 0
        self.full = False
        self.bytes = 0

    def begin(self, words: list[bytes]) -> None:
        self._count(1, words)

    def end(self, words: list[bytes]) -> None:
        self._count(-1, words)

    def _count(self, one: int, words: list[bytes]) -> None:
        self.number += one
        self.bytes += one * sum(map(len, words))
        self.full = self.number >= MOST_WAITING or self.bytes >= MOST_WAITING_BYTES


def _unknown(context: Context, session: Session, words: list[bytes]) -> Any:
    """What Redis says of a command that it does not know."""
    if isinstance(words[0], TooLong):
        check_value_size(words[0].size, context.config.max_value_bytes)
    if isinstance(words[0], NoRoom):
        raise no_room(context.budget.used, context.budget.limit, context.timeout)
    shown = ""
    for word in words[1:]:
        if len(shown) >= 128:
            break
        shown += f"'{word[: 128 - len(shown)].decode(errors='replace')}' "
    name = words[0][:128].decode(errors="replace")
    raise Refused(f"ERR unknown command '{name}', with args beginning with: {shown}")


# Stands for every command that there is not.
UNKNOWN = Command("", _unknown, -1)
