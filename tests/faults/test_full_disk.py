"""A journal whose disk is full, and one whose disk fails, under a real node."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from milena_cache.journal.file import DATA_FILE
from milena_client import Milena
from tests.faults import full_disk
from tests.faults.harness import strace
from tests.faults.harness.history import History
from tests.faults.harness.load import NO_RETRY, Load, Mix, read_all
from tests.faults.harness.system import SystemUnderTest
from tests.support.processes import ROOT

pytestmark = pytest.mark.e2e


@pytest.mark.skipif(not full_disk.private(), reason="no tmpfs can be mounted in a namespace of the test's own")
def test_a_full_disk_means_write_through_and_heals_when_there_is_room() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults.full_disk"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# Opens a new journal with less and less room, and again when there is room.
FIRST_START = """
import subprocess, sys
from pathlib import Path
from milena_cache.journal.disk import CannotOpen
from milena_cache.journal.lmdb_disk import LmdbDisk
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
for room in range(0, 65536, 4096):
    ballast, journal = disk / "ballast", disk / "journal"
    ballast.write_bytes(bytes(65536 - room))
    try:
        LmdbDisk(journal, 10**6)
        print(room, "opened")
    except CannotOpen as error:
        print(room, error)
    ballast.unlink()
    LmdbDisk(journal, 10**6)
    subprocess.run(["rm", "-r", str(journal)], check=True)
"""


@pytest.mark.skipif(not full_disk.private(), reason="no tmpfs can be mounted in a namespace of the test's own")
def test_a_first_start_on_a_full_disk_is_rejected_and_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*full_disk.private(), sys.executable, "-c", FIRST_START, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 16
    assert all(line.endswith(("No space left on device", " opened")) for line in lines), ran.stdout
    assert lines[0].endswith("No space left on device")
    assert lines[-1].endswith("opened")


@pytest.mark.skipif(bool(strace.why_not()), reason=strace.why_not())
@pytest.mark.parametrize("call", ["fdatasync", "writev", "pwrite64"])
async def test_a_failed_write_or_sync_ends_the_node_and_a_restart_serves_what_it_acknowledged(
    tmp_path: Path, call: str
) -> None:
    history = History((f"eio/{number}" for number in range(100)), large_bytes=20_000)
    with SystemUnderTest(tmp_path, {"FLUSH_DELAY_MS": "3600000"}) as system:
        load = Load(system.address, history, 8, 1, Mix(reads=0.1))
        await load.write(200)
        node, log = system.node, tmp_path / "strace.log"
        with strace.attached(node.pid, f"{call}:error=EIO", log, system.journal / DATA_FILE):
            async with load.running():
                code = await asyncio.to_thread(node.wait)
        assert code == 1
        assert strace.injected(log) > 0
        assert any("the journal's disk failed" in line and "Input/output error" in line for line in node.lines())
        await asyncio.to_thread(system.restart)
        await read_all(system.address, history, "a read after the restart")
        assert set(load.errors) <= {"Unavailable", "NodeLost", "NoNodes"}
        load.errors.clear()
        await load.write(50)
        assert load.errors.total() == 0
        with Milena(system.address, retry=NO_RETRY) as m:
            await asyncio.to_thread(m.flush)
        await asyncio.to_thread(system.compare_with_s3, history)
        assert history.wrong == []
        assert system.defects() == []
