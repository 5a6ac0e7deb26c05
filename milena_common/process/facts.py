"""Shell. What the operating system knows of this process, for those who ask it how it does."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import NamedTuple

from milena_common.limits.memory_limit import memory_limit
from milena_common.process.distribution import installed_version

_STATM = Path("/proc/self/statm")


class Usage(NamedTuple):
    """Bytes of memory now and at most, and seconds of processor time."""

    resident: int
    peak: int
    user: float
    system: float


def resident_bytes() -> int:
    """Bytes of memory that the process has now; the most that it ever had where the system does not say."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # only Linux has it
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class ProcessFacts:
    """What does not change, and `usage()`. `memory` is what the process may use, in bytes."""

    def __init__(self) -> None:
        self.version = installed_version()
        self.pid = os.getpid()
        uname = os.uname()
        self.system = f"{uname.sysname} {uname.release} {uname.machine}"
        self.memory = memory_limit()

    def usage(self) -> Usage:
        used = resource.getrusage(resource.RUSAGE_SELF)
        peak = used.ru_maxrss * 1024
        return Usage(resident_bytes(), peak, used.ru_utime, used.ru_stime)
