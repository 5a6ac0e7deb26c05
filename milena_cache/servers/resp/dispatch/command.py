"""Pure. The description of a command: its name, its arguments, and its handler.

Most fields are those of COMMAND INFO, so that clients find the keys of a command as they do with Redis. The same
fields decide about slots, rate limit and ordering here: the description that clients get of a command and what
the server does cannot differ.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from milena_cache.servers.resp.dispatch.session import Session
from milena_common.forwarding.numbered_keys import NumberedKeys
from milena_common.resp.command_ordering import Access

# The context of the handlers: `milena_cache.servers.resp.state.context.Context`, which in turn has all commands.
C = TypeVar("C")

# Takes the arguments with the command's name first. Returns a reply (see `milena_common.resp.encoding`), or an
# awaitable of one. Raises CommandError or MilenaError.
Handler = Callable[[C, Session, list[bytes]], Any | Awaitable[Any]]

Operation = Literal["get", "put", "delete", "list", "refresh", "other"]

# Positions of the first and last key among the arguments (negative: from the end), and the step between keys.
KeyPositions = tuple[int, int, int]
NO_KEYS: Final = (0, 0, 0)
ONE_KEY: Final = (1, 1, 1)
ALL_KEYS: Final = (1, -1, 1)
KEYS_WITH_VALUES: Final = (1, -1, 2)
KEY_OF_SUBCOMMAND: Final = (2, 2, 1)
BEHIND_OPERATION: Final = (2, -1, 1)


def positions(argv: Sequence[bytes], keys: KeyPositions) -> range:
    """Return the positions of the keys among `argv`."""
    first, last, step = keys
    if not first:
        return range(0)
    return range(first, last + 1 if last >= 0 else len(argv) + last + 1, step)


def _never(argv: list[bytes]) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Command(Generic[C]):
    """A command or subcommand.

    name: in lower case; of a subcommand `parent|name`: the registry puts it below its parent, from any module
    handler: see `Handler`
    arity: the number of arguments with the name; negative: the minimum
    access: what it does to its keys
    keys: see `KeyPositions`; of a command with subcommands those of its subcommands
    operation: the label under which it is counted
    flags: further ones than those that follow from `access`
    categories: without the `@`; further ones than those that follow from the flags
    group, summary, since, complexity: for COMMAND DOCS
    usage: the arguments as HELP shows them, `<key> [SAMPLES <count>]`
    subcommands: its subcommands
    alone: returns True for arguments with which its access is `modify`, whatever `access` is
    labelled: returns the operation for its arguments, if that depends on them
    about: returns access and cache keys for its arguments, if none of these is a key (MILENA.CALL)
    behind_all: True if it begins only when every command before it has its reply
    allowed_in_transaction: True if it is carried out between MULTI and EXEC, where others are rejected
    while_subscribed: True if a RESP2 connection with a subscription may send it
    decide: what it makes of the values of its keys (`milena_cache.servers.resp.decisions`), also in a transaction;
        None if it is not available there, or has no keys
    blind: returns True for arguments with which it writes its keys without regard to what they are
    decide_in: returns `decide` for a context, of a command for which that depends on it (EVAL)
    numbered_keys: where its keys are, if its arguments say how many they are (EVAL); `keys` is NO_KEYS then
    """

    name: str
    handler: Handler[C]
    arity: int
    access: Access = "none"
    keys: KeyPositions = NO_KEYS
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
    allowed_in_transaction: bool = False
    while_subscribed: bool = False
    decide: Callable[[Any, list[bytes]], Any] | None = None
    blind: Callable[[list[bytes]], bool] = _never
    decide_in: Callable[[C], Callable[[Any, list[bytes]], Any]] | None = None
    numbered_keys: NumberedKeys | None = None

    def access_of(self, argv: list[bytes]) -> Access:
        """Return what the command does to its keys with these arguments."""
        return "modify" if self.alone is not None and self.alone(argv) else self.access

    def operation_of(self, argv: list[bytes]) -> str:
        """Return the label under which the command is counted with these arguments."""
        return self.operation if self.labelled is None else self.labelled(argv)

    def accepts(self, number: int) -> bool:
        """True if `number` arguments, the name included, are allowed."""
        return number == self.arity if self.arity >= 0 else number >= -self.arity

    @property
    def has_keys(self) -> bool:
        """True if it is about keys; one that says how many they are may have none of them."""
        return bool(self.keys[0]) or self.numbered_keys is not None

    def positions(self, argv: Sequence[bytes]) -> range:
        """Return the positions of the keys among `argv`."""
        return positions(argv, self.keys) if self.numbered_keys is None else self.numbered_keys.positions(argv)

    def keys_in(self, argv: list[bytes]) -> list[bytes]:
        """Return the keys among `argv`."""
        first, last, step = self.keys
        if not first:
            return [] if self.numbered_keys is None else self.numbered_keys.keys_in(argv)
        stop = last + 1 if last >= 0 else len(argv) + last + 1
        return argv[first:stop:step]

    def decision(self, context: C) -> Callable[[Any, list[bytes]], Any] | None:
        """Return what it makes of the values of its keys; None if it is not available in a transaction."""
        return self.decide if self.decide_in is None else self.decide_in(context)
