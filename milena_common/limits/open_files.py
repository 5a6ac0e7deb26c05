"""Shell. How many files and connections the process may have open."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress


def open_files_limit() -> int:
    """Return how many file descriptors this process may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def allow_files() -> None:
    """Allow as many as the system does; the usual soft limit of 1024 is for programs of long ago."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
