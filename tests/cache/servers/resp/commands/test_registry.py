from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from milena_cache.servers.resp import commands
from milena_cache.servers.resp.commands.registry import MODULES, command_registry


def test_the_registry_has_every_module_that_describes_commands() -> None:
    (folder,) = map(Path, commands.__path__)
    describing = {
        path
        for path in folder.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMMANDS"
    }
    assert describing == {Path(str(module.__file__)) for module in MODULES}


def test_each_command_is_described_once() -> None:
    names = Counter(command.name for module in MODULES for command in module.COMMANDS)
    assert [name for name, number in names.items() if number > 1] == []


def test_flags_and_categories_that_follow_from_other_fields_are_not_repeated() -> None:
    repeated = [
        command.name
        for parent in command_registry().values()
        for command in (parent, *parent.subcommands)
        if (command.access == "read" and "readonly" in command.flags)
        or (command.access in ("write", "modify") and "write" in command.flags)
        or any(category.startswith("@") for category in command.categories)
    ]
    assert repeated == []
