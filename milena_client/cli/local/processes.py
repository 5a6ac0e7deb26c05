"""Shell. Starts child processes with a log file each, and stops them: SIGTERM, then SIGKILL after a timeout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# Seconds. The processes stop within 10 s of SIGTERM.
STOP_SECONDS = 12.0


class Process:
    """A Python module that runs as a process of its own, and ends with this one; both its outputs go to `log`."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "milena_client.cli.local.child", str(os.getpid()), *arguments],
                env=dict(environment),
                # Another directory than the parent's, whose .env file the parent has applied already.
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C and a closed terminal signal only the parent, which stops its children in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def exit_code(self) -> int | None:
        """Return the exit code, -N after signal N; None while the process runs."""
        return self._popen.poll()

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def last_lines(self, lines: int = 5) -> str:
        """Return the last `lines` lines of its log."""
        text = self.log.read_text(errors="replace").strip().splitlines()
        return "\n".join(text[-lines:]) or "(its log is empty)"

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`; return True if the process has ended."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def stop_all(processes: Iterable[Process], seconds: float = STOP_SECONDS) -> list[Process]:
    """Send SIGTERM to all, and SIGKILL to those that still run after `seconds` or at the next Ctrl-C.

    Returns the processes that had to be killed.
    """
    running = [process for process in processes if process.exit_code() is None]
    for process in running:
        process.signal(signal.SIGTERM)
    until = time.monotonic() + seconds
    try:
        stragglers = [process for process in running if not process.wait(max(0.0, until - time.monotonic()))]
    except KeyboardInterrupt:
        stragglers = [process for process in running if process.exit_code() is None]
    for process in stragglers:
        process.signal(signal.SIGKILL)
    for process in stragglers:
        process.wait(seconds)
    return stragglers
