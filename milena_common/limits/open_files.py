"""Shell. The limit of file descriptors, files and connections alike, that the process may have open.

Processes raise the soft limit at their start; a node derives from it how many RESP connections it accepts.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress


def open_files_limit() -> int:
    """Return the number of file descriptors that this process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def allow_files() -> None:
    """Raise the soft limit, usually 1024, to the hard limit."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
