"""No text says to install a package that is not this one: `milena` on the package index is another's."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

from milena_common.process.distribution import NAME, install_command, installed_version

ROOT = Path(__file__).parents[2]
# What pip, or a requirement such as milena[cli], would take for the other project's name.
OTHERS = re.compile(
    r"""(?<![\w./-])milena\[\w"""
    r"""|(?:pip|uv|pipx|poetry)\b[^\n]*\b(?:install|add)\b[^\n]*["' ]milena["'\s=<>~]"""
)
ABOUT_IT = Path(__file__).name


def test_the_names_that_are_looked_for_are_found() -> None:
    for text in ('pip install "milena[cli]"', "pip install milena ", 'uv add "milena"', '["milena[cli,server]"]'):
        assert OTHERS.search(text), text
    for text in (install_command("cli"), "pip install .", "milena get k", "pip uninstall milena", "milena[ ]"):
        assert not OTHERS.search(text), text


def test_no_file_names_the_other_project_as_what_to_install() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.splitlines() if not name.endswith(ABOUT_IT)]
    found = [
        f"{path}: {match[0]}"
        for path in files
        if path.is_file()
        for match in OTHERS.finditer(path.read_text(errors="replace"))
    ]
    assert files
    assert found == []


def test_the_project_file_has_the_name_that_texts_use_and_refers_to_itself_by_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == NAME == "milena-cache"
    own = [
        each for extra in project["optional-dependencies"].values() for each in extra if each.startswith("milena")
    ]
    assert own
    assert all(each.startswith(f"{NAME}[") for each in own)


def test_the_version_is_that_of_this_distribution_and_of_no_other() -> None:
    assert installed_version() == metadata.version(NAME)
