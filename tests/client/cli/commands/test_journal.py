"""`journal` starts the node's own program, where it is installed, and stands aside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
PROGRAM = """
import signal, sys
print(sys.argv[1:])
if sys.argv[1:] == ["die"]:
    signal.raise_signal(signal.SIGKILL)
sys.exit(len(sys.argv))
"""


def journal(directory: Path, *arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """The command, with the modules in `directory` before all others; `code` is run first."""
    start = f"{code}\nfrom milena_client.cli.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, "-c", start, "journal", *arguments],
        env={**os.environ, "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory with a program that says its arguments, and exits with their number and one."""
    package = tmp_path / "milena_cache" / "journal" / "tools"
    package.mkdir(parents=True)
    for each in (package, package.parent, package.parent.parent):
        (each / "__init__.py").write_text("")
    (package / "command.py").write_text(PROGRAM)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "dir"],
        ["export", "dir", "--to", "x y", "-o", "json", "--", "-k"],
        ["--help"],
        ["verify", "--url", "no"],
        [],
    ],
)
def test_arguments_output_and_exit_code_are_the_programs(installed: Path, arguments: list[str]) -> None:
    ran = journal(installed, *arguments)
    assert (ran.stdout, ran.stderr) == (f"{arguments}\n", "")
    assert ran.returncode == len(arguments) + 1


def test_a_program_that_is_killed_ends_as_a_shell_would_say_it(installed: Path) -> None:
    assert journal(installed, "die").returncode == 128 + 9


def test_without_the_nodes_packages_it_says_what_to_install(tmp_path: Path) -> None:
    hidden = (
        "import importlib.util as u; found = u.find_spec\nu.find_spec = lambda n: n != 'lmdb' and found(n) or None"
    )
    ran = journal(tmp_path, "inspect", "dir", code=hidden)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == 'milena: missing lmdb: pip install "milena-cache[server]"\n'
