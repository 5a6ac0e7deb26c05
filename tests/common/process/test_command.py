"""What the commands of the processes do with arguments, and without their packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from milena_cache.configuration import config as cache_config
from milena_common.process.command import start
from milena_router import config as router_config
from tests.support.processes import ROOT

COMMANDS = {
    "milena-router": ("milena_router.command", router_config),
    "milena-cache": ("milena_cache.command", cache_config),
}

commands = pytest.mark.parametrize("name", COMMANDS)


def run(name: str, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    program = f"{before}\nfrom {COMMANDS[name][0]} import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@commands
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_variable_and_starts_nothing(name: str, flag: str) -> None:
    finished = run(name, flag)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.startswith(f"usage: {name}")
    assert set(COMMANDS[name][1].variables()) <= set(finished.stdout.split())


@commands
def test_the_version_is_one_line(name: str) -> None:
    finished = run(name, "--version")
    assert finished.returncode == 0
    assert finished.stdout.startswith(f"{name} ")


@commands
@pytest.mark.parametrize("argument", ["help", "--port=1", "start"])
def test_other_arguments_are_rejected(name: str, argument: str) -> None:
    finished = run(name, argument)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith(
        f"{name}: takes no arguments, got {argument!r}; it is configured by environment"
    )
    assert finished.stderr.count("\n") == 1


@commands
@pytest.mark.parametrize("missing", ["uvloop", "aiohttp", "prometheus_client"])
def test_a_missing_package_is_a_sentence_with_the_extra_to_install(name: str, missing: str) -> None:
    finished = run(name, before=f"import sys; sys.modules[{missing!r}] = None")
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == f'{name}: the package {missing} is missing: pip install "milena-cache[server]"\n'


def test_a_defect_of_the_program_is_no_missing_package() -> None:
    def main() -> None:
        raise ModuleNotFoundError("No module named 'milena_common.nothing'", name="milena_common.nothing")

    with pytest.raises(ModuleNotFoundError):
        start("milena-cache", "", [], list, main)


def test_the_installed_commands_are_these(tmp_path: Path) -> None:
    for name in COMMANDS:
        finished = subprocess.run(
            [Path(sys.executable).with_name(name), "--help"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert finished.stdout.startswith(f"usage: {name}"), finished.stderr
