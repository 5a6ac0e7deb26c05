"""Shell. Facts about machine and versions that results depend on.

They are part of each result file, so that results of different machines are not compared by mistake.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from milena_common.build import is_compiled
from milena_common.process.distribution import NAME

# Peers and generators of load that are no Python packages.
_PROGRAMS = ("redis-server", "redis-benchmark")
_PACKAGES = (NAME, "grpcio", "protobuf", "obstore", "boto3", "cachetools", "uvloop", "lmdb", "redis", "hiredis")


def machine_facts(directory: Path) -> dict[str, str | int]:
    """Return the facts by name; a missing package or program is "none".

    `directory` has the files of the measured processes.
    """
    facts: dict[str, str | int] = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "processor": _processor(),
        "file system": _file_system(directory.resolve()),
        "build": "compiled" if is_compiled() else "Python",
        **{program: _version_of(program) for program in _PROGRAMS},
    }
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "none"
    return facts


def _version_of(program: str) -> str:
    """Return the first version number that `program --version` prints."""
    try:
        ran = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    found = re.search(r"\d+(\.\d+)+", ran.stdout)
    return found[0] if found else "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _file_system(directory: Path) -> str:
    """Return the type of the file system: on tmpfs a sync does nothing."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    around = [(len(place), kind) for place, kind in mounts if directory.is_relative_to(place)]
    return max(around, default=(0, "unknown"))[1]
