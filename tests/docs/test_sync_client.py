"""The sync client against scripts/sync-client: it is what the async one makes, and the rules are exact."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import sync_client
from scripts.sync_client import MODULES, replace_texts, sync_module, sync_tokens
from tests.docs.documents import ROOT


def test_the_sync_client_is_what_the_async_client_makes() -> None:
    ran = subprocess.run(
        [ROOT / "scripts" / "sync-client", "--check"],
        capture_output=True,
        text=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_sync_client_that_was_edited_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync_client.main([], tmp_path) == sync_client.main(["--check"], tmp_path) == 0
    edited = tmp_path / "client.py"
    edited.write_text(edited.read_text().replace("self._wrote((key,))", "pass", 1))
    assert sync_client.main(["--check"], tmp_path) == 1
    assert "run scripts/sync-client" in capsys.readouterr().err


def test_tokens_change_and_nothing_else_does() -> None:
    source = '''\
from milena_client.aio.batch import run_batch
from milena_common.runtime.clock import Clock


class AsyncThing:  # an AsyncThing
    """Has `AsyncThing.run`, and says async and await."""

    async def run(self, clock: Clock) -> str:
        async with self.lock:
            return "await" + (await run_batch(f"{1}", AsyncAsyncio))

    async def __aenter__(self) -> None: ...
'''
    assert (
        sync_tokens(source)
        == '''\
from milena_client.sync.batch import run_batch
from milena_common.runtime.blocking_clock import BlockingClock


class Thing:  # an Thing
    """Has `Thing.run`, and says async and await."""

    def run(self, clock: BlockingClock) -> str:
        with self.lock:
            return "await" + (run_batch(f"{1}", Asyncio))

    def __enter__(self) -> None: ...
'''
    )


def test_a_text_that_is_not_there_once_is_an_error() -> None:
    assert replace_texts("a b", (("b", "c"), ("a c", "d"))) == "d"
    for source in ("a a", "b"):
        with pytest.raises(ValueError, match=r"occurs [02] times"):
            replace_texts(source, (("a", "b"),))


@pytest.mark.parametrize("twin", MODULES, ids=lambda twin: twin.name)
def test_what_is_made_says_so_and_is_sync(twin: sync_client.Twin) -> None:
    made = sync_module(twin)
    assert made.startswith(f"# Made from milena_client/aio/{twin.name}.py by scripts/sync-client")
    assert "await " not in made.replace("to be awaited", "")
    assert "milena_client.aio" not in made
