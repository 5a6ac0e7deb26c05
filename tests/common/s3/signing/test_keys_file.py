"""The file of access keys: present, missing, wrong, and changed while it is in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from milena_common.api.errors import ConfigError
from milena_common.s3.signing.keys_file import RELOAD_SECONDS, KeysFile
from tests.support.fake_clock import FakeClock

LINE = "reader a-secret-of-at-least-16-characters\n"


def test_without_a_name_there_are_no_keys() -> None:
    assert KeysFile("").keys == {}


def test_a_file_in_a_folder_that_is_missing_is_an_error_and_so_is_a_wrong_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"S3_KEYS_FILE.*cannot be read"):
        KeysFile(str(tmp_path / "missing" / "keys"))
    (tmp_path / "keys").write_text("reader short\n")
    with pytest.raises(ConfigError, match="line 1"):
        KeysFile(str(tmp_path / "keys"))


async def test_a_file_may_come_later_and_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the optional Secret of Kubernetes: its folder is there, and its file comes with the Secret."""
    path = tmp_path / "keys"
    file = KeysFile(str(path))
    assert file.keys == {}
    assert "rejected until it is there" in caplog.text
    clock = FakeClock()
    watching = asyncio.ensure_future(file.watch(clock))

    async def poll_until(condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            await clock.advance(RELOAD_SECONDS)
            await asyncio.to_thread(path.exists)  # the file is read in a thread
        raise AssertionError

    path.write_text(LINE)
    await poll_until(lambda: set(file.keys) == {"reader"})
    path.write_text("reader short\n")
    await poll_until(lambda: "stay as they were" in caplog.text)
    for _ in range(10):
        await clock.advance(RELOAD_SECONDS)
        await asyncio.to_thread(path.exists)
    assert set(file.keys) == {"reader"}
    assert caplog.text.count("stay as they were") == 1, "a wrong file is logged once"
    path.write_text(LINE + LINE.replace("reader", "writer"))
    await poll_until(lambda: set(file.keys) == {"reader", "writer"})
    watching.cancel()
