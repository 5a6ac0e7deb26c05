"""Shell. System calls of a process that fail on purpose: strace's fault injection."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.support.processes import ROOT
from tests.support.waiting import wait_until


@cache
def why_not() -> str:
    """Why it cannot be used here; "" if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=none", "true"], capture_output=True, text=True, check=False
    )
    return "" if tried.returncode == 0 else f"strace may not trace: {tried.stderr.strip()}"


def command(inject: str, log: Path, only: Path) -> list[str]:
    """What to put before a program, or before ``-p PID``: `inject` is done to its system calls and logged in `log`.

    `inject` is as in "fdatasync:error=EIO:when=3". Only calls on the file `only` count, in each thread by itself.
    """
    name = inject.partition(":")[0]
    return ["strace", "-f", "-qq", "-o", str(log), "-P", str(only), "-e", f"trace={name}", "-e", f"inject={inject}"]


def injected(log: Path) -> int:
    """How often it was done."""
    return log.read_text(errors="replace").count("(INJECTED)") if log.exists() else 0


@contextmanager
def attached(process: int, inject: str, log: Path, only: Path) -> Iterator[None]:
    """Inside the block it is done to a process that runs, in all of its threads."""
    argv = [*command(inject, log, only), "-p", str(process)]
    tracer = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    try:
        wait_until("strace traces every thread", lambda: tracer.poll() is not None or _traced(process), 10)
        assert tracer.poll() is None, f"strace ended: {tracer.communicate()[1]}"
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


def _traced(process: int) -> bool:
    threads = Path(f"/proc/{process}/task").glob("*/status")
    return all("TracerPid:\t0\n" not in status.read_text() for status in threads)


def run(inject: str, arguments: Sequence[str], log: Path, only: Path) -> subprocess.CompletedProcess[str]:
    """Run a program under it, to its end."""
    # With a filter of system calls the program stops at those of `inject` only, and not at thousands more while
    # Python imports modules. strace 6.1 does not send a signal at the second or a later call then.
    only_traced = [] if "signal=" in inject else ["--seccomp-bpf"]
    return subprocess.run(
        [*command(inject, log, only), *only_traced, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
