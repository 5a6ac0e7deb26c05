"""Shell. The cores that this process may use: those of its affinity, at most its container's share of time."""

from __future__ import annotations

import math
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def usable_cores(root: Path = _ROOT) -> int:
    """Return the number of cores, at least 1; `root` is where control groups are mounted. A quota is rounded up."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = _quota(root)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota(root: Path) -> float | None:
    """Return the processor time a second that the container's control group allows; None without a limit."""
    try:
        allowed, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return int(allowed) / int(period) if allowed.isdecimal() and int(period) else None
