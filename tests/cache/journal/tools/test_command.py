"""`milena journal` on journals whole and damaged, stopped and running, as the program that it is."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from milena_cache.journal.file import DATA_FILE
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.record import Record, encode
from milena_cache.journal.tools import inspect as journal_inspect
from milena_cache.journal.tools.inspect import Progress
from milena_cache.objects.version import ABSENT, Version
from milena_common.api.keys import cache_key
from tests.cache.journal.test_lmdb_disk import HOLDER, rewrite
from tests.support.processes import ROOT, Process
from tests.support.s3.memory_store import etag_of

EPOCH, FIRST = 1_700_000_000_000, 1_700_000_000_000_000
WALL = 1_700_000_000.0
ETAG = etag_of(b"old")
PROGRAM = [sys.executable, "-P", "-m", "milena_cache.journal.tools.command"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def record(number: int, key: str, value: bytes | None, bucket: str = "", **fields: Any) -> Record:
    at = WALL + number
    return Record(cache_key(bucket, key.encode()), Version(EPOCH, FIRST + number), value, written_at=at, **fields)


def write(directory: Path, raws: Iterable[tuple[int, bytes]], aside: Iterable[int] = (), origin: str = "") -> None:
    """A journal of these records by number, of which those in `aside` are quarantined, and number 2 is rejected."""

    async def work() -> None:
        disk = LmdbDisk(directory, 10**8)
        await disk.roll_back()
        for number, raw in raws:
            disk.put_record(FIRST + number, raw)
        disk.reject_record(FIRST + 2, "S3 put of s3://b/k: AccessDenied: no\x1b[31m", WALL + 9)
        disk.clear_rejection(FIRST + 3)  # rejected once
        for number in aside:
            disk.quarantine(FIRST + number)
        if origin:
            disk.set_metadata("origin", origin)
        await disk.commit()
        await disk.close()

    asyncio.run(work())


def encoded(*records: Record) -> list[tuple[int, bytes]]:
    return [(each.version.seq - FIRST, encode(each)) for each in records]


def flipped(raw: tuple[int, bytes], place: int) -> tuple[int, bytes]:
    wrong = bytearray(raw[1])
    wrong[place] ^= 1
    return raw[0], bytes(wrong)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], env=ENV, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


WHOLE = encoded(
    record(1, "reports/a.csv", b"first", base=ETAG),
    record(2, "reports/b.csv", b"refused", base=ABSENT),
    record(3, "reports/a.csv", b"second"),
    record(4, "elsewhere", b"in another bucket", bucket="other-bucket", expires_at=WALL + 100.5),
    record(5, "gone", b"deleted soon"),
    record(6, "gone", None),
)
IN_KEY, IN_VALUE = 61, -1


@pytest.fixture
def whole(directory: Path) -> Path:
    write(directory, WHOLE, origin="s3://the-bucket/pre/")
    return directory


@pytest.fixture
def damaged(directory: Path) -> Path:
    """Whole but for 3, whose value is damaged, and for 4 and 5, whose keys are; 5 is quarantined."""
    raws = dict(WHOLE)
    for number, place in ((3, IN_VALUE), (4, IN_KEY), (5, IN_KEY)):
        raws.update([flipped((number, raws[number]), place)])
    write(directory, raws.items(), aside=[5])
    return directory


# ---- inspect


def test_inspect_shows_what_there_is(whole: Path) -> None:
    ran = run("inspect", whole)
    assert (ran.returncode, ran.stderr) == (0, "")
    size = (whole / DATA_FILE).stat().st_size
    assert ran.stdout.splitlines() == [
        f"journal  {whole}",
        "held by  no process",
        "for      s3://the-bucket/pre/",
        "format   1",
        "records  6 of 4 keys: 5 puts, 1 deletes",
        f"bytes    47 of values, {size:,} on disk",
        "written  2023-11-14 22:13:21 UTC to 2023-11-14 22:13:26 UTC",
        "refused  1 by S3 permanently",
        "damaged  0, and 0 quarantined",
    ]


def test_inspect_of_an_empty_journal(directory: Path) -> None:
    write(directory, [])
    lines = run("inspect", "--records", directory).stdout.splitlines()
    assert "records  0 of 0 keys: 0 puts, 0 deletes" in lines
    assert "written  -" in lines
    assert "for      no bucket recorded" in lines
    assert run("inspect", "--json", directory).stdout == ""


def test_inspect_shows_each_record_and_nothing_that_a_terminal_would_act_on(whole: Path) -> None:
    ran = run("inspect", "--records", whole)
    lines = ran.stdout.splitlines()[10:]
    assert lines[0].split() == ["OPERATION", "SIZE", "AGE", "VERSION", "BASE", "KEY"]
    assert len(lines) == 7
    columns = lines[1].split()
    assert columns[:2] == ["put", "5"]
    assert columns[-3:] == [f"{EPOCH}-{FIRST + 1}", ETAG, "reports/a.csv"]
    assert lines[2].endswith(r"reports/b.csv  refused: S3 put of s3://b/k: AccessDenied: no\x1b[31m")
    assert re.search(r"s3://other-bucket/elsewhere  expires: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", lines[4])
    assert lines[6].split()[0] == "delete"
    assert "\x1b" not in ran.stdout


def test_inspect_gives_programs_a_line_of_json_for_each_record(whole: Path) -> None:
    rows = [json.loads(line) for line in run("inspect", "--json", whole).stdout.splitlines()]
    assert [(row["bucket"], row["key"], row["operation"], row["size"]) for row in rows] == [
        ("the-bucket", "reports/a.csv", "put", 5),
        ("the-bucket", "reports/b.csv", "put", 7),
        ("the-bucket", "reports/a.csv", "put", 6),
        ("other-bucket", "elsewhere", "put", 17),
        ("the-bucket", "gone", "put", 12),
        ("the-bucket", "gone", "delete", 0),
    ]
    assert rows[1].pop("age") > 0
    assert rows[1] == {
        "number": FIRST + 2,
        "bucket": "the-bucket",
        "key": "reports/b.csv",
        "operation": "put",
        "size": 7,
        "version": f"{EPOCH}-{FIRST + 2}",
        "written_at": WALL + 2,
        "base": "absent",
        "expires_at": None,
        "refused": "S3 put of s3://b/k: AccessDenied: no\x1b[31m",
        "refused_at": WALL + 9,
        "damage": None,
    }
    assert [row["base"] for row in rows[:3]] == [ETAG, "absent", "unknown"]
    assert rows[3]["expires_at"] == WALL + 100.5
    assert rows[2]["refused"] is None, "it is tried again"


def test_inspect_distinguishes_damaged_records(damaged: Path) -> None:
    ran = run("inspect", "--records", damaged)
    assert ran.returncode == 0
    assert "records  5 of 3 keys: 3 puts, 1 deletes" in ran.stdout
    assert "damaged  2, and 1 quarantined" in ran.stdout
    rows = [json.loads(line) for line in run("inspect", "--json", damaged).stdout.splitlines()]
    assert [(row["key"], row["damage"]) for row in rows[2:4]] == [
        ("reports/a.csv", "its value of 6 bytes is damaged"),
        (None, "its head or key is damaged"),
    ]
    assert rows[2]["size"] is None


# ---- verify


def test_verify_of_a_whole_journal(whole: Path) -> None:
    ran = run("verify", whole)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "6 records with 47 bytes of values: 0 damaged, and 0 quarantined before\n"


def test_verify_lists_what_is_damaged(damaged: Path) -> None:
    ran = run("verify", damaged)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert ran.stdout.splitlines() == [
        f"record {FIRST + 3}: its value of 6 bytes is damaged: put of reports/a.csv, "
        f"version {EPOCH}-{FIRST + 3}, 2023-11-14 22:13:23 UTC",
        f"record {FIRST + 4}: its head or key is damaged",
        f"record {FIRST + 5} (quarantined): its head or key is damaged",
        "5 records with 12 bytes of values: 2 damaged, and 1 quarantined before",
    ]


def test_a_quarantined_record_fails_verify(directory: Path) -> None:
    write(directory, [flipped(WHOLE[0], IN_KEY), *WHOLE[1:]], aside=[1])
    assert run("verify", directory).returncode == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_to_people_and_taken_away(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    monkeypatch.setattr(journal_inspect, "PROGRESS_SECONDS", 0)
    stderr = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    progress = Progress(2500, "verified")
    for _ in range(2600):
        progress.one_more()
    progress.clear()
    progress.clear()
    shown = stderr.getvalue().split("\r")
    if is_terminal:
        assert "1,000 of 2,500 records verified\x1b[K" in shown
        assert "2,600 of 2,600 records verified\x1b[K" in shown, "a running node's journal may grow"
        assert shown[-1] == "\x1b[K"
        assert shown.count("\x1b[K") == 1
    else:
        assert shown == [""]


# ---- export


def manifest(to: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in (to / "manifest.jsonl").read_text().splitlines()]
    return {str(row["key"] or row["number"]): row for row in rows}


def files(to: Path) -> dict[str, bytes]:
    found = {path.relative_to(to).as_posix(): path.read_bytes() for path in to.rglob("*") if path.is_file()}
    del found["manifest.jsonl"]
    return found


def test_export_writes_the_newest_value_of_each_key(whole: Path, tmp_path: Path) -> None:
    to = tmp_path / "somewhere" / "rescued"
    ran = run("export", whole, "--to", to)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == (
        f"3 values and 1 deletes of 4 keys are in {to}/manifest.jsonl, the values in files beside it\n"
    )
    assert files(to) == {
        "objects/the-bucket/reports/a.csv": b"second",
        "objects/the-bucket/reports/b.csv": b"refused",
        "objects/other-bucket/elsewhere": b"in another bucket",
    }
    rows = manifest(to)
    assert {key: row["file"] for key, row in rows.items()} == {
        "reports/a.csv": "objects/the-bucket/reports/a.csv",
        "reports/b.csv": "objects/the-bucket/reports/b.csv",
        "elsewhere": "objects/other-bucket/elsewhere",
        "gone": None,
    }
    assert rows["gone"]["operation"] == "delete"
    assert rows["elsewhere"]["bucket"] == "other-bucket"
    assert rows["reports/a.csv"]["version"] == f"{EPOCH}-{FIRST + 3}"
    assert rows["reports/a.csv"]["written_at"] == WALL + 3
    assert rows["reports/b.csv"]["refused"].startswith("S3 put")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [to, *to.rglob("*")]}
    assert modes == {0o600, 0o700}, "as secret as the journal"


def test_export_takes_nothing_damaged_for_good(damaged: Path, tmp_path: Path) -> None:
    to = tmp_path / "rescued"
    ran = run("export", damaged, "--to", to)
    assert ran.returncode == 1
    assert ran.stdout.startswith("1 values and 1 deletes of 3 keys")
    assert ran.stderr.splitlines() == [
        "1 keys have no file: their newest value is damaged",
        "the keys of 2 damaged records are unknown: an exported value may not be its key's newest",
    ]
    assert files(to) == {"objects/default/reports/b.csv": b"refused"}, "nor an older value of the key"
    rows = manifest(to)
    assert rows["reports/a.csv"]["damage"] == "its value of 6 bytes is damaged"
    assert rows["reports/a.csv"]["file"] is None
    for number in (4, 5):
        row = rows[str(FIRST + number)]
        assert (row["file"], row["key"], row["damage"]) == (None, None, "its head or key is damaged")


def test_export_writes_nothing_outside_of_its_directory_whatever_keys_are_called(
    directory: Path, tmp_path: Path
) -> None:
    to = tmp_path / "deep" / "in" / "rescued"
    outside = tmp_path / "outside"
    rng = random.Random(7)
    parts = [
        "a",
        "A",
        "b.csv",
        "..",
        ".",
        "",
        "\\",
        "\n",
        "\x1b[2J",
        "ü",
        "\u202e",
        " ",
        "-rf",
        "x" * 300,
        "y" * 255,
    ]
    keys = {"/".join(rng.choices(parts, k=rng.randint(1, 6)))[:1000] for _ in range(600)} - {""}
    keys |= {
        "../../../outside/x",
        f"{outside}/x",
        "/etc/passwd",
        "..",
        ".",
        "/",
        "manifest.jsonl",
        "a",
        "a/b",
        "a/b/",
    }
    keys |= {"s3://other/x", "objects", "unnamed/1", "~root/x", "$HOME/x", "%2e%2e/x", "C:\\x", "nul"}
    values = {key: f"value of {key}".encode() for key in sorted(keys)}
    write(directory, encoded(*(record(n, key, values[key]) for n, key in enumerate(values, 10))))
    ran = run("export", directory, "--to", to)
    assert (ran.returncode, ran.stderr) == (0, "")
    rows = manifest(to)
    assert rows.keys() == values.keys()
    named = {row["file"] for row in rows.values()}
    assert len(named) == len(values), "a file for each"
    for key, value in values.items():
        path = to / rows[key]["file"]
        assert path.resolve().is_relative_to(to.resolve())
        assert path.read_bytes() == value
        assert rows[key]["file"].isprintable()
    assert {path.name for path in tmp_path.iterdir()} == {"journal", "deep"}
    assert files(to).keys() == named
    assert rows["objects"]["file"] == "objects/default/objects", "what can be a path is one"


@pytest.mark.parametrize("to", ["journal", "journal/inside", "full", "file", "file/below"])
def test_export_rejects_a_directory_that_is_not_for_it(whole: Path, tmp_path: Path, to: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    ran = run("export", whole, "--to", tmp_path / to)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"milena journal: --to {tmp_path / to}: ")
    assert ran.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_export_to_an_empty_directory_is_fine_and_to_nowhere_is_not(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("export", whole, "--to", tmp_path / "empty").returncode == 0
    ran = run("export", whole)
    assert ran.returncode == 2
    assert "--to" in ran.stderr


# ---- what is no journal, or cannot be read


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["export", "--to", "rescued"]])
def test_a_directory_that_is_no_journal_is_reported_in_a_line(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / DATA_FILE).write_bytes(b"\x55" * 9000)
    before = sorted(tmp_path.rglob("*"))
    for name in ("", "missing", "file", "other"):
        ran = run(*command, tmp_path / name)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith(f"milena journal: {tmp_path / name}: ")
        assert ran.stderr.count("\n") == 1
        assert "give the JOURNAL_DIR of a node" in ran.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", [[], ["look"], ["inspect"], ["verify", "a", "b"], ["inspect", "--all", "a"]])
def test_wrong_usage_is_reported_with_the_right_one(arguments: list[str]) -> None:
    ran = run(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("usage: milena journal")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["inspect", "--help"], ["verify", "-h"], ["export", "--help"], ["adopt", "-h"]]
)
def test_there_is_help(arguments: list[str]) -> None:
    ran = run(*arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("usage: milena journal")
    assert "JOURNAL_DIR" in ran.stdout


def many(directory: Path, number: int = 3000) -> None:
    write(directory, encoded(*(record(n, f"key{n}", bytes(500)) for n in range(number))))


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["export", "--to", "rescued"]])
def test_a_truncated_file_is_reported_and_no_crash(
    command: list[str], directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    many(directory)
    os.truncate(directory / DATA_FILE, 100_000)
    ran = run(*command, directory)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"milena journal: {directory}: ")
    assert "it is truncated or damaged" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_file_whose_pages_are_damaged_is_reported_and_no_crash(directory: Path, tmp_path: Path) -> None:
    many(directory)
    rng = random.Random(3)
    for attempt in range(12):
        copy = tmp_path / str(attempt)
        shutil.copytree(directory, copy)
        raw = bytearray((copy / DATA_FILE).read_bytes())
        pages = range(8192 if attempt % 2 else len(raw) // 8192 * 4096, len(raw), 4096)
        for place in pages:
            if attempt < 6:
                raw[place + 10 : place + 12] = b"\0\0"  # what kind of page it is
            else:
                raw[place : place + 16] = rng.randbytes(16)
        (copy / DATA_FILE).write_bytes(raw)
        ran = run("verify", copy)
        assert ran.returncode in (1, 2)
        assert "Traceback" not in ran.stderr
        assert ran.stderr.splitlines()[-1].startswith(f"milena journal: {copy}: ")


def test_verify_checks_the_structure_of_the_file(directory: Path) -> None:
    many(directory, 300)
    raw = bytearray((directory / DATA_FILE).read_bytes())
    for head in (0, 4096):
        raw[head + 120] ^= 1  # how many databases there are, which reading does not need
    (directory / DATA_FILE).write_bytes(raw)
    ran = run("verify", directory)
    assert ran.returncode == 1
    assert ran.stdout.startswith("structure: ")
    assert "300 records" in ran.stdout


def test_adopt_says_what_it_did_and_what_must_not_be_done(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    ran = run("adopt", copy)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "never start a node on the original again" in ran.stdout
    ran = run("adopt", tmp_path / "missing" / "place")
    assert ran.returncode == 2
    assert ran.stderr.startswith("milena journal: ")
    assert not (tmp_path / "missing").exists()


# ---- beside a node


def test_it_names_the_process_that_has_the_journal_and_does_not_disturb_it(whole: Path, tmp_path: Path) -> None:
    with Process("holder", ["-c", HOLDER, str(whole)], {"PYTHONPATH": str(ROOT)}, tmp_path) as holder:
        holder.wait_for_log("open")
        assert f"held by  pid {holder.pid}\n" in run("inspect", whole).stdout
        assert run("verify", whole).returncode == 0
        assert run("export", whole, "--to", tmp_path / "rescued").returncode == 0
        assert holder.running
        holder.kill()
        assert "held by  no process\n" in run("inspect", whole).stdout


WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.record import Record, encode
from milena_cache.objects.version import Version
async def main():
    disk = LmdbDisk(Path(sys.argv[1]), 10**8)
    await disk.roll_back()
    for seq in itertools.count(1_800_000_000_000_000):
        disk.put_record(seq, encode(Record(b"key%d" % (seq % 100), Version(1, seq), b"%d " % seq * 300)))
        disk.remove_record(seq - 300)
        await disk.commit()
        if seq % 1000 == 999:
            print("went round", flush=True)
asyncio.run(main())
"""


def test_it_takes_nothing_wrong_for_a_record_while_a_node_writes(directory: Path, tmp_path: Path) -> None:
    with Process("writer", ["-c", WRITER, str(directory)], {"PYTHONPATH": str(ROOT)}, tmp_path) as writer:
        writer.wait_for_log("went round")
        for attempt in range(4):
            ran = run("verify", directory)
            assert (ran.returncode, ran.stderr) == (0, "")
            to = tmp_path / f"rescued{attempt}"
            assert run("export", directory, "--to", to).returncode == 0
            for path in (to / "objects").rglob("key*"):
                seq = int(path.read_bytes().split()[0])
                assert path.read_bytes() == b"%d " % seq * 300
                assert path.name == f"key{seq % 100}"
        assert writer.running


def blocked(directory: Path) -> subprocess.Popen[str]:
    """An `inspect` that is in the middle of it, as its reader takes no more for the time being."""
    many(directory)
    program = subprocess.Popen(
        [*PROGRAM, "inspect", "--json", str(directory)],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert program.stdout is not None
    program.stdout.readline()
    return program


async def test_one_that_is_not_listened_to_keeps_no_room_and_no_lock(directory: Path) -> None:
    program = await asyncio.to_thread(blocked, directory)
    disk = LmdbDisk(directory, 10**8)
    await disk.roll_back()
    before = disk.used_bytes
    await rewrite(disk, 100, first=FIRST + 10**6)
    assert disk.used_bytes < before + 2**22
    await disk.close()
    assert program.poll() is None
    program.kill()
    program.communicate()


@pytest.mark.parametrize(
    ("number", "group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGINT, False, 130), (signal.SIGTERM, False, 143)],
)
def test_it_exits_silently_on_a_signal(directory: Path, number: int, group: bool, code: int) -> None:
    program = blocked(directory)
    os.kill(-program.pid if group else program.pid, number)
    assert program.communicate(timeout=20)[1] == ""
    assert program.returncode == code


def test_it_exits_silently_when_its_output_is_closed(directory: Path) -> None:
    program = blocked(directory)
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    assert program.wait(20) == 141
    assert program.stderr.read() == ""
    program.stderr.close()
