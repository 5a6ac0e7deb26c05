"""Shell. Facts about this process from the operating system, for status commands such as INFO.

Where a system does not report a value, the closest available one is returned, so that a status never fails.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import NamedTuple

from milena_common.limits.memory_limit import memory_limit
from milena_common.process.distribution import installed_version

_STATM = Path("/proc/self/statm")


class Usage(NamedTuple):
    """Bytes of memory, current and peak, and seconds of processor time."""

    resident: int
    peak: int
    user: float
    system: float


def resident_bytes() -> int:
    """Return the resident memory of the process in bytes; its peak where the system does not report the current."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # exists on Linux only
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class ProcessFacts:
    """Constant facts, and `usage()`. `memory` is the limit of the process in bytes."""

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
