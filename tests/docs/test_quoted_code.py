"""Commands, Python and JSON in the documents: they parse, and what they use exists. Nothing is run."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path

import click
import pytest

from milena_client import AsyncMilena
from milena_client.cli.app import milena
from tests.docs.documents import DOCUMENTS, Block, blocks, commands, prose


def parse_command(command: click.Command, name: str, arguments: list[str], parent: click.Context | None) -> None:
    """Raise click.UsageError unless `command` takes these arguments. Runs nothing."""
    try:
        context = command.make_context(name, [*arguments], parent=parent)
    except click.exceptions.Exit:  # --help, --version
        return
    if isinstance(command, click.Group):
        _, rest, _ = command.make_parser(context).parse_args([*arguments])
        below, subcommand, rest = command.resolve_command(context, rest)
        assert below is not None
        assert subcommand is not None
        parse_command(subcommand, below, rest, context)


MILENA_COMMANDS = [*commands("milena")]


@pytest.mark.parametrize(
    ("document", "arguments"), MILENA_COMMANDS, ids=[" ".join(arguments) for _, arguments in MILENA_COMMANDS]
)
def test_quoted_commands_exist_and_take_their_arguments(document: Path, arguments: list[str]) -> None:
    parse_command(milena, "milena", list(arguments), None)


def test_the_parser_of_commands_would_notice() -> None:
    assert len(MILENA_COMMANDS) > 10
    for wrong in (["lst"], ["get", "--no-such-option", "k"], ["ring", "owners", "k"], ["nodes", "-o", "xml"]):
        with pytest.raises(click.UsageError):
            parse_command(milena, "milena", wrong, None)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_backticks_exist(document: Path) -> None:
    for quoted in re.findall(r"`milena ([a-z][^`]*)`", prose(document)):
        parse_command(milena, "milena", quoted.split(), None)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.document.name)
def test_python_compiles_and_imports_what_there_is(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)
        # The clients are all that these examples call `cache`.
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cache":
            assert hasattr(AsyncMilena, node.attr), node.attr


@pytest.mark.parametrize("block", blocks("json"), ids=lambda block: block.document.name)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)
