"""Pure. Commands that have subcommands: CLIENT, CONFIG and the like, and their HELP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from milena_cache.servers.resp.dispatch.command import C, Command, CommandError, wrong_arity
from milena_cache.servers.resp.dispatch.session import Session
from milena_common.resp.encoding import Simple


def assembled(commands: Iterable[Command[C]]) -> dict[bytes, Command[C]]:
    """The commands by name in upper case, each with its subcommands (`parent|name`) from wherever they are."""
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
        2,
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
    """The handler of a container that is nothing without a subcommand; its arity refuses what would come here."""
    raise wrong_arity(argv[0].decode().lower())


def unknown_subcommand(parent: str, word: bytes) -> CommandError:
    shown = word[:128].decode(errors="replace")
    return CommandError(f"ERR unknown subcommand '{shown}'. Try {parent.upper()} HELP.")


def wrong_form(parent: str, word: bytes) -> CommandError:
    """For words after a subcommand that has more than one form."""
    shown = word[:128].decode(errors="replace")
    return CommandError(
        f"ERR unknown subcommand or wrong number of arguments for '{shown}'. Try {parent.upper()} HELP."
    )


def find(commands: Mapping[bytes, Command[C]], argv: list[bytes]) -> Command[C] | None:
    """The command that `argv` begin with: the subcommand, if it has such."""
    command = commands.get(argv[0].upper())
    if command is None or not command.subcommands or len(argv) == 1:
        return command
    name = argv[1].decode(errors="replace").lower()
    return next((each for each in command.subcommands if each.name == f"{command.name}|{name}"), command)
