"""Pure. Answers that are due: what a connection keeps of a command until its answer has its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milena_cache.doors.redis.command import Command, Refused
from milena_cache.doors.redis.tracking import Work

if TYPE_CHECKING:
    from milena_cache.doors.redis.context import Context
    from milena_cache.doors.redis.session import Session

Answer = tuple[bytes, ...]

# From this size a value is not copied together with other answers.
LARGE = 32 * 1024


class Large(tuple[bytes, ...]):
    """An answer with a large value among its pieces."""

    __slots__ = ()


class Waiting:
    """A place in the order of answers; `answer` is None until it is there. `name` is the command's or subcommand's.

    `muted`: the client wants no answer.
    """

    __slots__ = ("answer", "command", "deferred", "keys", "muted", "name", "started", "words", "work")

    def __init__(
        self, answer: Answer | None, command: Command, name: str, words: list[bytes], started: float
    ) -> None:
        self.answer = answer
        self.command = command
        self.name = name
        self.words = words
        self.started = started
        self.keys: list[bytes] = []
        self.deferred = 0
        self.muted = False
        self.work: Work | None = None


def _unknown(context: Context, session: Session, words: list[bytes]) -> Any:
    """What Redis says of a command that it does not know."""
    shown = ""
    for word in words[1:]:
        if len(shown) >= 128:
            break
        shown += f"'{word[: 128 - len(shown)].decode(errors='replace')}' "
    name = words[0][:128].decode(errors="replace")
    raise Refused(f"ERR unknown command '{name}', with args beginning with: {shown}")


# Stands for every command that there is not.
UNKNOWN = Command("", _unknown, -1)
