"""Pure. COMMAND: the descriptions of all commands, by which clients find the keys of a command.

All of it follows from the fields of `Command`; nothing is described twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.subcommands import find
from milena_cache.servers.resp.state.context import Context
from milena_common.access.glob import Glob
from milena_common.resp.command_ordering import Access
from milena_common.resp.encoding import Simple
from milena_common.resp.redis_replies import SYNTAX, CommandError

# By access, in Redis's terms: the flags of the command, and those of its keys.
OF_ACCESS: dict[Access, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "none": ((), ()),
    "read": (("readonly",), ("RO", "access")),
    "write": (("write",), ("OW", "update")),
    "modify": (("write",), ("RW", "access", "update")),
}
# Categories that follow from a flag, for all commands.
OF_FLAG = {"readonly": ("read",), "write": ("write",), "admin": ("admin", "dangerous"), "fast": ("fast",)}


COMMANDS = CommandTable[Context](flags=("loading", "stale"), categories=("connection",), group="server")


def flags_of(command: Command[Context]) -> list[str]:
    given = () if command.subcommands else OF_ACCESS[command.access][0]
    return list(dict.fromkeys((*given, *command.flags)))


def categories_of(command: Command[Context]) -> list[str]:
    flags = flags_of(command)
    implied = [category for flag in flags for category in OF_FLAG.get(flag, ())]
    speed = () if "fast" in flags else ("slow",)
    return [f"@{category}" for category in dict.fromkeys((*implied, *command.categories, *speed))]


def described(command: Command[Context]) -> list[Any]:
    """Return the command's description in the form of COMMAND INFO."""
    # The keys of a command with subcommands are those of its subcommands.
    first, last, step = (0, 0, 0) if command.subcommands else command.keys
    specs = []
    if first:
        search = {"type": "index", "spec": {"index": first}}
        found = {"lastkey": last if last < 0 else last - first, "keystep": step, "limit": 0}
        specs.append(
            {
                "flags": {Simple(flag) for flag in OF_ACCESS[command.access][1]},
                "begin_search": search,
                "find_keys": {"type": "range", "spec": found},
            }
        )
    return [
        command.name,
        command.arity,
        {Simple(flag) for flag in flags_of(command)},
        first,
        last,
        step,
        {Simple(category) for category in categories_of(command)},
        [],
        specs,
        [described(each) for each in command.subcommands],
    ]


def documented(command: Command[Context]) -> dict[str, Any]:
    """Return the command's description in the form of COMMAND DOCS."""
    docs: dict[str, Any] = {
        "summary": command.summary,
        "since": command.since,
        "group": command.group,
        "complexity": command.complexity,
    }
    if command.subcommands:
        docs["subcommands"] = {each.name: documented(each) for each in command.subcommands}
    return docs


def _every(context: Context) -> Iterator[Command[Context]]:
    for command in context.commands.values():
        yield command
        yield from command.subcommands


def _named(context: Context, argv: Iterable[bytes]) -> Iterator[tuple[bytes, Command[Context] | None]]:
    by_name = {command.name.encode(): command for command in _every(context)}
    return ((word, by_name.get(word.lower())) for word in argv)


@COMMANDS.command(
    "command",
    arity=-1,
    since="2.8.13",
    complexity="O(N) where N is the total number of commands",
    summary="Returns detailed information about all commands.",
)
def command(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    return [described(each) for each in context.commands.values()]


@COMMANDS.command(
    "command|count",
    arity=2,
    since="2.8.13",
    summary="Returns a count of commands.",
)
def count(context: Context, session: Session, argv: list[bytes]) -> int:
    return len(context.commands)


@COMMANDS.command(
    "command|info",
    arity=-2,
    since="2.8.13",
    complexity="O(N) where N is the number of commands to look up",
    usage="[<command-name> ...]",
    summary="Returns information about one, multiple or all commands.",
)
def info(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    if len(argv) == 2:
        return command(context, session, argv)
    return [described(each) if each else None for _, each in _named(context, argv[2:])]


@COMMANDS.command(
    "command|docs",
    arity=-2,
    since="7.0.0",
    complexity="O(N) where N is the number of commands to look up",
    usage="[<command-name> ...]",
    summary="Returns documentary information about one, multiple or all commands.",
)
def docs(context: Context, session: Session, argv: list[bytes]) -> dict[str, Any]:
    if len(argv) == 2:
        return {each.name: documented(each) for each in context.commands.values()}
    return {each.name: documented(each) for _, each in _named(context, argv[2:]) if each}


@COMMANDS.command(
    "command|getkeys",
    arity=-4,
    since="2.8.13",
    complexity="O(N) where N is the number of arguments to the command",
    usage="<full-command>",
    summary="Extracts the key names from an arbitrary command.",
)
def getkeys(context: Context, session: Session, argv: list[bytes]) -> list[bytes]:
    requested = argv[2:]
    found = find(context.commands, requested)
    if found is None:
        raise CommandError("ERR Invalid command specified")
    if not found.has_keys:
        raise CommandError("ERR The command has no key arguments")
    if not found.accepts(len(requested)):
        raise CommandError("ERR Invalid number of arguments specified for command")
    return found.keys_in(requested)


@COMMANDS.command(
    "command|list",
    arity=-2,
    since="7.0.0",
    complexity="O(N) where N is the total number of commands",
    usage="[FILTERBY (MODULE <name>|ACLCAT <category>|PATTERN <pattern>)]",
    summary="Returns a list of command names.",
)
def list_(context: Context, session: Session, argv: list[bytes]) -> list[str]:
    chosen: Callable[[Command[Context]], bool]
    match [word.upper() for word in argv[2:4]]:
        case []:
            return [each.name for each in context.commands.values()]
        case [b"FILTERBY", b"MODULE"] if len(argv) == 5:
            return []
        case [b"FILTERBY", b"ACLCAT"] if len(argv) == 5:
            category = f"@{argv[4].decode(errors='replace').lower()}"
            chosen = lambda each: category in categories_of(each)  # noqa: E731
        case [b"FILTERBY", b"PATTERN"] if len(argv) == 5:
            pattern = Glob(argv[4].lower())
            chosen = lambda each: pattern.matches(each.name.encode())  # noqa: E731
        case _:
            raise CommandError(SYNTAX)
    return [each.name for each in _every(context) if chosen(each)]
