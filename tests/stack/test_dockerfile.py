"""The image: what it is made of, and as whom it runs."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

from tests.stack.files import ROOT


class Instruction(NamedTuple):
    name: str
    arguments: str


def instructions() -> list[Instruction]:
    """The Dockerfile's, with comments dropped and continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def stages() -> list[list[Instruction]]:
    found: list[list[Instruction]] = []
    for instruction in instructions():
        if instruction.name == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def copied_from_the_tree() -> list[str]:
    """Sources of every COPY that takes files of this repository."""
    sources = []
    for instruction in instructions():
        operands = instruction.arguments.split()
        if instruction.name == "COPY" and not operands[0].startswith("--from="):
            sources += operands[:-1]
    return sources


def enters_the_build(path: str) -> bool:
    """What .dockerignore says of a path: the last pattern that fits it or a folder above it decides."""
    included = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        anywhere = pattern.startswith("**/")
        kept = pattern.startswith("!")
        expected = pattern.removeprefix("!").removeprefix("**/")
        whole = PurePosixPath(path)
        for part in (whole, *whole.parents[:-1]):
            if fnmatch.fnmatchcase(part.name if anywhere else str(part), expected):
                included = kept
    return included


def test_the_compiler_stays_behind() -> None:
    build, final = stages()
    assert build[0].arguments.endswith(" AS build")
    assert any(i.name == "COPY" and i.arguments.startswith("--from=build ") for i in final)
    assert not [i for i in final if "pip" in i.arguments]


def test_both_stages_have_one_pinned_base() -> None:
    bases = {i.arguments.split()[0] for i in instructions() if i.name == "FROM"}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases.pop())


def test_the_process_is_not_root() -> None:
    final = stages()[-1]
    users = [i.arguments for i in final if i.name == "USER"]
    assert users == ["10001:10001"]
    assert final.index(Instruction("USER", "10001:10001")) > max(
        n for n, i in enumerate(final) if i.name in ("COPY", "RUN")
    )


def test_a_new_volume_for_the_journal_belongs_to_the_process() -> None:
    """Docker gives it the owner and mode of its mount point in the image."""
    (made,) = (i.arguments.split() for i in stages()[-1] if i.name == "RUN" and i.arguments.startswith("install "))
    assert {"--directory", "--mode=0700", "--owner=10001", "--group=10001"} < set(made)
    assert made[-1] == "/var/lib/milena/journal"


def test_a_node_without_a_volume_keeps_no_journal_in_the_container() -> None:
    settings = " ".join(i.arguments for i in stages()[-1] if i.name == "ENV")
    assert "JOURNAL_DIR" not in settings
    assert "VOLUME" not in [i.name for i in stages()[-1]]


def test_log_lines_are_not_held_back() -> None:
    settings = " ".join(i.arguments for i in stages()[-1] if i.name == "ENV").split()
    assert "PYTHONUNBUFFERED=1" in settings


def test_every_port_of_both_processes_is_exposed() -> None:
    ports = {port for i in stages()[-1] if i.name == "EXPOSE" for port in i.arguments.split()}
    assert ports == {"50050", "9090", "50051", "9091", "6379"}


def test_a_command_given_replaces_the_default_whole() -> None:
    final = [i.name for i in stages()[-1]]
    assert "ENTRYPOINT" not in final
    assert final.count("CMD") == 1


def test_what_is_copied_exists_and_enters_the_build() -> None:
    for source in copied_from_the_tree():
        assert (ROOT / source).exists(), source
        assert enters_the_build(source), source


def test_every_package_is_in_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    top_level = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    packages = {name for name in top_level if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}
    assert len(packages) == len(patterns) == 4
    assert packages <= set(copied_from_the_tree())


@pytest.mark.parametrize("path", [".env", ".git/config", ".venv/bin/python", "tests/stack/files.py", "k8s/base"])
def test_nothing_else_enters_the_build(path: str) -> None:
    assert not enters_the_build(path)
    assert not enters_the_build("milena_cache/__pycache__/node.cpython-313.pyc")


def test_a_linter_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    ran = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
