"""The systemd units: accepted by systemd, hardened, and in step with what the processes do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.stack import environment
from tests.stack.files import ROOT

FOLDER = ROOT / "deploy" / "systemd"
UNITS = ("milena-router.service", "milena-cache@.service")

units = pytest.mark.parametrize("name", UNITS)


def settings(name: str) -> dict[str, list[str]]:
    """Return every setting of a unit, with all its values in order."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def analyze(tmp_path: Path, name: str, *arguments: str) -> str:
    """Return what systemd-analyze says of a copy of the unit, whose program exists."""
    command = shutil.which("systemd-analyze")
    if command is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / name
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", (FOLDER / name).read_text(), flags=re.M))
    ran = subprocess.run([command, *arguments, str(copy)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@units
def test_systemd_accepts_them(tmp_path: Path, name: str) -> None:
    assert str(tmp_path / name) not in analyze(tmp_path, name, "verify", "--recursive-errors=no")


@units
def test_they_are_hardened(tmp_path: Path, name: str) -> None:
    exposure = re.search(
        r"Overall exposure level for \S+: ([\d.]+)", analyze(tmp_path, name, "security", "--offline=true")
    )
    assert exposure is not None
    assert float(exposure[1]) < 2.0


@units
def test_they_come_back_unless_a_restart_cannot_help(name: str) -> None:
    unit = settings(name)
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert int(unit["LimitNOFILE"][0]) > 10_000


@units
def test_the_allocator_gives_memory_back_as_in_the_image(name: str) -> None:
    image = dict(re.findall(r"\b(MALLOC_\w+)=(\S+)", (ROOT / "Dockerfile").read_text()))
    variables = dict(each.split("=", 1) for line in settings(name)["Environment"] for each in line.split())
    assert len(image) == 3
    assert {key: value for key, value in variables.items() if key.startswith("MALLOC_")} == image


def test_a_stopping_process_gets_the_time_it_needs() -> None:
    node = environment.cache({"ROUTER_ADDR": "router:50050", "S3_BUCKET": "b-b", "AWS_REGION": "eu-west-1"})
    assert int(settings("milena-cache@.service")["TimeoutStopSec"][0]) >= node.drain + 20
    assert int(settings("milena-router.service")["TimeoutStopSec"][0]) >= 20


def test_each_node_has_a_journal_of_its_own() -> None:
    unit = settings("milena-cache@.service")
    assert unit["StateDirectory"] == ["milena/%i"]
    assert [each for each in unit["Environment"] if "JOURNAL" in each] == ["JOURNAL_DIR=/var/lib/milena/%i/journal"]
