"""A client in a process of gevent or eventlet."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from milena_common.api.errors import FailedPrecondition
from milena_common.runtime.patched import reject_patched

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "gevent, sockets alone": "from gevent import monkey; monkey.patch_socket()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}
TRY = """
def refused(make):
    try:
        make()
    except MilenaError as error:
        print(type(error).__name__, str(error).split()[0], 'Redis Cluster client' in str(error))
"""
IMPORT = "from milena_client import *; from milena_client import AsyncMilena, Milena, MilenaError; import asyncio\n"


def run(program: str) -> list[str]:
    command = [sys.executable, "-W", "ignore", "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
def test_a_client_that_would_hang_is_rejected_when_it_is_made(patch: str) -> None:
    library = "gevent" if "gevent" in patch else "eventlet"
    made = "refused(lambda: Milena('127.0.0.1:1'))\nrefused(lambda: AsyncMilena('127.0.0.1:1'))"
    assert run(f"{patch}\n{IMPORT}{TRY}\n{made}") == [f"FailedPrecondition {library} True"] * 2


def test_a_client_that_was_made_before_the_patches_is_rejected_at_its_first_call() -> None:
    called = (
        "client = Milena('127.0.0.1:1', timeout=2)\n" + PATCHES["gevent"] + "\nrefused(lambda: client.get('k'))"
    )
    assert run(f"{IMPORT}{TRY}\n{called}") == ["FailedPrecondition gevent True"]


def test_the_libraries_are_welcome_as_long_as_they_patch_nothing_that_matters() -> None:
    made = "Milena('127.0.0.1:1'); AsyncMilena('127.0.0.1:1'); print('made')"
    patches = "import gevent, eventlet.patcher; from gevent import monkey; monkey.patch_time()"
    assert run(f"{patches}\n{IMPORT}\n{made}") == ["made"]


def test_what_is_not_what_it_seems_is_no_patch() -> None:
    """A module of that name without the function, as while it is being imported."""
    half: Any = ModuleType("gevent.monkey")
    reject_patched({"gevent.monkey": half, "gevent": ModuleType("gevent")})
    half.is_module_patched = lambda name: name == "socket"
    with pytest.raises(FailedPrecondition, match="gevent has replaced"):
        reject_patched({"gevent.monkey": half})
