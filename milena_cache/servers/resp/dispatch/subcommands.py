"""Pure. Commands that have subcommands, such as CLIENT and CONFIG: dispatch by the second word, and their HELP.

A subcommand is a `Command` of its own, with its own arity, keys and counts; its parent has the handler that
dispatches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from milena_cache.servers.resp.dispatch.command import C, Command
from milena_cache.servers.resp.dispatch.session import Session
from milena_common.resp.encoding import Simple
from milena_common.resp.redis_replies import unknown_subcommand, wrong_arity


def assembled(commands: Iterable[Command[C]]) -> dict[bytes, Command[C]]:
    """Return the commands by name in upper case, each with its subcommands (`parent|name`) from all modules."""
    plain: dict[str, Command[C]] = {}
    below: dict[str, list[Command[C]]] = {}
    for command in commands:
        parent, bar, _ = command.name.partition("|")
        if bar:
            below.setdefault(parent, []).append(command)
        else:
            plain[command.name] = command
    for name, subcommands in below.items():
        plain[name] = _with_subcommands(plain[name], subcommands)
    return {name.upper().encode(): command for name, command in plain.items()}


def _with_subcommands(command: Command[C], subcommands: list[Command[C]]) -> Command[C]:
    if all(each.name != f"{command.name}|help" for each in subcommands):
        subcommands.append(_help(command, subcommands))
    by_word = {each.name.partition("|")[2].upper().encode(): each for each in subcommands}

    def dispatch(context: C, session: Session, argv: list[bytes]) -> Any:
        if len(argv) == 1:
            return command.handler(context, session, argv)
        subcommand = by_word.get(argv[1].upper())
        if subcommand is None:
            raise unknown_subcommand(command.name, argv[1])
        session.last_command = subcommand.name
        if not subcommand.accepts(len(argv)):
            raise wrong_arity(subcommand.name)
        return subcommand.handler(context, session, argv)

    return replace(command, handler=dispatch, subcommands=tuple(subcommands))


def _help(command: Command[C], subcommands: list[Command[C]]) -> Command[C]:
    lines = [Simple(line) for line in _help_lines(command.name, subcommands)]
    return Command(
        f"{command.name}|help",
        lambda context, session, argv: lines,
        arity=2,
        flags=("loading", "stale"),
        group=command.group,
        summary="Returns helpful text about the subcommands.",
    )


def _help_lines(name: str, subcommands: list[Command[C]]) -> Iterator[str]:
    yield f"{name.upper()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    for each in sorted(subcommands, key=lambda each: each.name):
        yield f"{each.name.partition('|')[2].upper()} {each.usage}".rstrip()
        yield f"    {each.summary}"
    yield "HELP"
    yield "    Print this help."


def no_handler(context: object, session: Session, argv: list[bytes]) -> Any:
    """Raise the error for a command without a subcommand; the handler of commands that need one."""
    raise wrong_arity(argv[0].decode().lower())


def find(commands: Mapping[bytes, Command[C]], argv: list[bytes]) -> Command[C] | None:
    """Return the command or subcommand that `argv` begins with; None if there is no such command."""
    command = commands.get(argv[0].upper())
    if command is None or not command.subcommands or len(argv) == 1:
        return command
    name = argv[1].decode(errors="replace").lower()
    return next((each for each in command.subcommands if each.name == f"{command.name}|{name}"), command)
