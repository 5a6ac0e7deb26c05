"""Shell. The memory that this process may use: the container's limit, or the machine's memory.

A limit may be set at any level above the process's control group, of a pod or a systemd slice, and the lowest of
them applies. Inside a container the path that the kernel names may not exist, because the container's own group
is mounted as the root: then the root's limit is read.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

_SELF = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
_VERSION_2 = "memory.max"
_VERSION_1 = "memory.limit_in_bytes"


def memory_limit(self_cgroup: Path = _SELF, root: Path = _ROOT) -> int:
    """Return the limit in bytes. `self_cgroup` names the process's control groups, `root` is their mount point."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (_limit(path) for path in _candidates(self_cgroup, root))
    return min((physical, *(limit for limit in limits if limit is not None)))


def _candidates(self_cgroup: Path, root: Path) -> list[Path]:
    """Return the files that may hold a limit: of the process's group and of each above it, in cgroup v1 and v2."""
    groups = {(root, _VERSION_2): {"/"}, (root / "memory", _VERSION_1): {"/"}}
    try:
        lines = self_cgroup.read_text().splitlines()
    except OSError:  # exists on Linux only
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            groups[root, _VERSION_2].add(path)
        elif "memory" in controllers.split(","):
            groups[root / "memory", _VERSION_1].add(path)
    return [
        mount / each.relative_to("/") / name
        for (mount, name), paths in groups.items()
        for path in paths
        if path.startswith("/") and ".." not in path.split("/")
        for each in (PurePosixPath(path), *PurePosixPath(path).parents)
    ]


def _limit(path: Path) -> int | None:
    """Return the limit in bytes that the file holds; None if it holds none."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" where there is none
