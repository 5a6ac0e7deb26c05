"""Pure. What a command is: its name, its arguments, and the function that answers it.

The fields are those that COMMAND INFO tells, so that clients find the keys of a command as they do with Redis.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from milena_cache.servers.resp.dispatch.session import Session

# What a command works with: `milena_cache.servers.resp.state.context.Context`, which in turn has all commands.
C = TypeVar("C")

# Takes the command's words, its name included. Gives an answer (see `milena_common.resp.encoding`), or something to
# be awaited that does. Raises Refused or MilenaError.
Handler = Callable[[C, Session, list[bytes]], Any | Awaitable[Any]]

# What a command does to its keys, for the order in which the commands of one connection take effect.
Access = Literal["none", "read", "write", "modify"]
Operation = Literal["get", "put", "delete", "list", "refresh", "other"]


class CommandError(Exception):
    """A command that is answered by an error. The text begins with the code word, as in `ERR syntax error`."""


SYNTAX = "ERR syntax error"
NOT_AN_INTEGER = "ERR value is not an integer or out of range"


@dataclass(frozen=True, slots=True)
class Command(Generic[C]):
    """`arity` counts the name; negative: at least so many. `keys`: first, last (negative: from the end) and step.

    `operation` is the label under which it is counted. `flags`, `categories`, `summary`, `since`, `complexity` and
    `group` are for COMMAND, `usage` (the arguments, as in `<key> [SAMPLES <count>]`) for HELP. A subcommand's name
    is `container|name`; the table puts it below its container, whichever module it is in. `alone` tells of words by
    which the command reads and writes, whatever its `access` is otherwise, and `labelled` the operation under which
    it is counted if that depends on its words. `about` tells what it does to which objects, by cache key, if none
    of its words is a key. `behind_all`: it begins when every command before it has its answer.
    """

    name: str
    handler: Handler[C]
    arity: int
    access: Access = "none"
    keys: tuple[int, int, int] = (0, 0, 0)
    operation: Operation = "other"
    flags: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    group: str = "generic"
    summary: str = ""
    since: str = "1.0.0"
    complexity: str = "O(1)"
    usage: str = ""
    subcommands: tuple[Command[C], ...] = ()
    alone: Callable[[list[bytes]], bool] | None = None
    labelled: Callable[[list[bytes]], str] | None = None
    about: Callable[[C, list[bytes]], tuple[Access, list[bytes]]] | None = None
    behind_all: bool = False

    def access_of(self, argv: list[bytes]) -> Access:
        """What it does to its keys with these words."""
        return "modify" if self.alone is not None and self.alone(argv) else self.access

    def operation_of(self, argv: list[bytes]) -> str:
        """The label under which it is counted with these words."""
        return self.operation if self.labelled is None else self.labelled(argv)

    def accepts(self, number: int) -> bool:
        """Whether it may have `number` words."""
        return number == self.arity if self.arity >= 0 else number >= -self.arity

    def keys_in(self, argv: list[bytes]) -> list[bytes]:
        """The keys among `argv`."""
        first, last, step = self.keys
        if not first:
            return []
        stop = last + 1 if last >= 0 else len(argv) + last + 1
        return argv[first:stop:step]


def wrong_arity(name: str) -> CommandError:
    return CommandError(f"ERR wrong number of arguments for '{name}' command")


def integer(word: bytes, error: str = NOT_AN_INTEGER) -> int:
    """A 64-bit integer as Redis reads one. Raises Refused."""
    digits = word[1:] if word[:1] == b"-" else word
    if not digits.isdigit() or len(digits) > 19 or (digits[:1] == b"0" and word != b"0"):
        raise CommandError(error)
    value = int(word)
    if not -(2**63) <= value < 2**63:
        raise CommandError(error)
    return value
