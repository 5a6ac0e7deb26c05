"""Pure. The commands of one module, each described by a decorator of the function that carries it out.

So a command is in one place: its metadata stands beside its behaviour. The decorator returns the function as it is,
which becomes the handler: no call is added to a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from milena_cache.servers.resp.dispatch.command import C, Command, KeyPositions, Operation
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.subcommands import no_handler
from milena_common.forwarding.numbered_keys import NumberedKeys
from milena_common.resp.command_ordering import Access

R = TypeVar("R")
# A `Handler` of which the decorator keeps the type of the reply.
Function = Callable[[C, Session, list[bytes]], R]


class Metadata(TypedDict, Generic[C], total=False):
    """The fields of `Command`, where they are described, that a command may leave out."""

    access: Access
    keys: KeyPositions
    operation: Operation
    flags: tuple[str, ...]
    categories: tuple[str, ...]
    group: str
    summary: str
    since: str
    complexity: str
    usage: str
    alone: Callable[[list[bytes]], bool]
    labelled: Callable[[list[bytes]], str]
    about: Callable[[C, list[bytes]], tuple[Access, list[bytes]]]
    behind_all: bool
    allowed_in_transaction: bool
    while_subscribed: bool
    decide: Callable[[Any, list[bytes]], Any]
    blind: Callable[[list[bytes]], bool]
    decide_in: Callable[[C], Callable[[Any, list[bytes]], Any]]
    numbered_keys: NumberedKeys


class CommandTable(Generic[C]):
    """The commands of one module, in the order in which they are described.

    `shared`: fields of all of them that give no other value.
    """

    def __init__(self, **shared: Unpack[Metadata[C]]) -> None:
        self._shared = shared
        self._commands: list[Command[C]] = []

    def __iter__(self) -> Iterator[Command[C]]:
        return iter(self._commands)

    def command(
        self, name: str, *, arity: int, **metadata: Unpack[Metadata[C]]
    ) -> Callable[[Function[C, R]], Function[C, R]]:
        """Return a decorator that makes a function the handler of the command `name`."""
        fields: Metadata[C] = {**self._shared, **metadata}

        def describe(handler: Function[C, R]) -> Function[C, R]:
            self._commands.append(Command(name, handler, arity, **fields))
            return handler

        return describe

    def parent(self, name: str, **metadata: Unpack[Metadata[C]]) -> None:
        """Add a command that has subcommands only; fields that are shared do not apply to it."""
        self._commands.append(Command(name, no_handler, -2, **metadata))
