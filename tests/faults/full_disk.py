"""Shell. The journal's disk is full, and has room again: ``python -m tests.faults.full_disk``.

The disk is a tmpfs of a few megabytes, in a mount namespace of the script's own, with a file on it that takes most
of the room. The node uploads nothing by itself, so its journal fills. From then on S3 must have writes before they
are acknowledged; while S3 is away too they must be rejected; reads go on; and the node may be killed and started on
the full disk. When the file is removed, writes must be acknowledged from the journal again within seconds. In the
end nothing may be lost.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path

from milena_client import Milena, MilenaError
from tests.faults.harness.history import History
from tests.faults.harness.load import NO_RETRY, read_all
from tests.faults.harness.system import SystemUnderTest, print_samples, scratch
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

MIB = 2**20
DISK_BYTES, BALLAST_BYTES = 8 * MIB, 5 * MIB
# Each write needs many pages in one piece, so that a full disk is full for all of them.
VALUE_BYTES = 50_000
EACH = 10
NODE = {"FLUSH_DELAY_MS": "3600000", "S3_RETRIES": "0", "S3_TIMEOUT_SECONDS": "1"}
HEAL_SECONDS = 5.0
CLEAN_SECONDS = 30.0


class Values(History):
    """A history whose values are all of one size."""

    def value(self, key: str, number: int) -> bytes:
        head = f"{key} {number} ".encode()
        return head + (sha256(head).digest() * (VALUE_BYTES // 32 + 1))[:VALUE_BYTES]


@dataclass(slots=True)
class Outcome:
    """How writes ended in each state of disk and S3: a durability class, or the name of an error."""

    history: History
    filled: int = 0
    states: dict[str, Counter[str]] = field(default_factory=dict)
    full: list[float] = field(default_factory=list)
    readiness: str = ""
    healed: float | None = None
    defects: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return (
            self.filled > EACH
            and self.states
            == {
                "full": Counter(through=EACH),
                "full, and S3 away": Counter(OriginUnavailable=EACH),
                "full, after a restart": Counter(through=EACH),
                "room again": Counter(back=3 * EACH),
            }
            and self.full == [0, 1, 1, 0]
            and "its disk is full" in self.readiness
            and self.healed is not None
            and not (self.history.wrong or self.defects)
        )

    def samples(self) -> dict[str, object]:
        healed = f"not within {HEAL_SECONDS:g} s" if self.healed is None else f"after {self.healed:.1f} s"
        return {
            "writes until the disk was full": self.filled,
            **{f"writes: {state}": dict(finished) for state, finished in self.states.items()},
            "milena_journal_full": self.full,
            "readiness when it was full": self.readiness,
            "acknowledged from the journal again": healed,
            "verdict": self.history.verdict(),
            "tracebacks": len(self.defects),
        }


def run(directory: Path, disk: Path) -> Outcome:
    """Blocks until it is done; `disk` is small, and nothing else is on it."""
    with (
        SystemUnderTest(directory, {**NODE, "JOURNAL_DIR": str(disk / "journal")}) as system,
        Milena(system.address, retry=NO_RETRY) as milena,
    ):
        return _Run(system, milena, disk / "ballast").run()


class _Run:
    def __init__(self, system: SystemUnderTest, milena: Milena, ballast: Path) -> None:
        self._system = system
        self._milena = milena
        self._ballast = ballast
        self._history = Values(f"full/{number}" for number in range(200))
        self._fresh = iter(self._history.keys)
        self._outcome = Outcome(self._history)

    def run(self) -> Outcome:
        outcome, system = self._outcome, self._system
        self._ballast.write_bytes(bytes(BALLAST_BYTES))
        self._look()
        while self._write() == "back":
            outcome.filled += 1
        self._try("full")
        outcome.readiness = system.node.get("/readyz")[1]
        self._look()
        with system.proxy.refusing():
            self._try("full, and S3 away")
            self._read("a read while the disk is full and S3 away", outcome.filled)
        system.node.kill()
        system.restart()
        self._read("a read after a restart on the full disk", outcome.filled)
        self._try("full, after a restart")
        self._look()
        self._ballast.unlink()
        began = time.monotonic()
        try:
            wait_until("writes are acknowledged from the journal", lambda: self._write() == "back", HEAL_SECONDS)
        except TimeoutError:
            return outcome
        outcome.healed = time.monotonic() - began
        self._look()
        self._try("room again")
        known = self._history.keys[:EACH]
        outcome.states["room again"] += Counter(self._write(key) for key in known)
        outcome.states["room again"] += Counter(self._write(key, delete=True) for key in known[::2] * 2)
        system.node.kill()
        system.restart({"FLUSH_DELAY_MS": "0"})
        asyncio.run(read_all(system.address, self._history, "a read at the end"))
        system.wait_until_clean(CLEAN_SECONDS)
        system.compare_with_s3(self._history)
        outcome.defects = system.defects()
        return outcome

    def _write(self, key: str | None = None, *, delete: bool = False) -> str:
        """How it ended; a key that was not written before if none is named."""
        write = self._history.begin(key or next(self._fresh), delete=delete)
        try:
            if write.value is None:
                written = self._milena.delete(write.key)
            else:
                written = self._milena.set(write.key, write.value)
        except MilenaError as error:
            return type(error).__name__
        self._history.acknowledge(write)
        return written.durability

    def _try(self, state: str) -> None:
        self._outcome.states[state] = Counter(self._write() for _ in range(EACH))

    def _read(self, where: str, number: int) -> None:
        """Read the first keys."""
        for key in self._history.keys[:number]:
            mark = self._history.mark(key)
            self._history.observed(key, self._milena.get(key), mark, where)

    def _look(self) -> None:
        self._outcome.full.append(self._system.metric("milena_journal_full"))


# ---- a disk of its own


@cache
def private() -> tuple[str, ...]:
    """What to put before a program that may then mount a tmpfs for itself alone; nothing if that cannot be had."""
    with tempfile.TemporaryDirectory() as directory:
        for argv in (("unshare", "--mount"), ("unshare", "--mount", "--map-root-user")):
            mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory]
            if shutil.which("unshare") and not subprocess.run([*argv, *mount], capture_output=True).returncode:
                return argv
    return ()


def main() -> int:
    if sys.argv[1:] != ["--in-private"]:
        if not private():
            print("needs unshare (util-linux) and the right to mount a tmpfs in a namespace", file=sys.stderr)
            return 2
        program = [sys.executable, "-m", "tests.faults.full_disk", "--in-private"]
        return subprocess.run([*private(), *program], cwd=ROOT, check=False).returncode
    with scratch() as directory:
        disk = directory / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True)
        try:
            outcome = run(directory, disk)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    print_samples("full disk", outcome.samples())
    return int(not outcome.right)


if __name__ == "__main__":
    sys.exit(main())
