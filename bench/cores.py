"""Shell. Processor cores: what is measured has one to itself, what it is measured with has the others.

Two servers that are compared would else be given different shares of the machine by chance, and a server that is
one thread would be compared with one that has helpers on other cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def apart(measured: Iterable[int], around: Iterable[int]) -> Iterator[None]:
    """While it lasts, the processes `measured` share one core; `around`, this one and what it starts the others.

    Both are numbers of processes. Without a second core, or a system that can be told such things, nothing is
    done.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cores) < 2:
        yield
        return
    one, others = [*measured], [*around, os.getpid()]
    try:
        for pid in one:
            _keep(pid, cores[:1])
        for pid in others:
            _keep(pid, cores[1:])
        yield
    finally:
        for pid in (*one, *others):
            _keep(pid, cores)


def processor_seconds(pid: int) -> float:
    """What all threads of the process `pid` have used so far, in the system and out of it. Raises OSError.

    On Linux alone. The tables in /proc are 10 ms out, which is much of a short round.
    """
    return time.clock_gettime(_clock_of(pid))


def _clock_of(pid: int) -> int:
    """clock_getcpuclockid(3), which Python does not have."""
    return ~pid << 3 | 2


def _keep(pid: int, cores: list[int]) -> None:
    """All threads of the process `pid`; the threads and processes that they start stay with them."""
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # it ended
                os.sched_setaffinity(int(thread.name), cores)
