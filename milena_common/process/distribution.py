"""Shell. The name of this distribution on a package index, and its installed version.

The distribution is `milena-cache`: on PyPI `milena` is another project, a VoIP library. So every text that names
a package to install takes the name from here, and the version is looked up under this name alone.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata

from milena_common.build import is_compiled

NAME = "milena-cache"
UNKNOWN = "unknown"


@cache  # each connection begins with it, and looking it up reads a file
def installed_version() -> str:
    """Return the installed version, "unknown" where the source tree runs without being installed."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def described_version() -> str:
    """Return the installed version and which build runs, as `--version` prints it."""
    return f"{installed_version()} ({'compiled' if is_compiled() else 'Python'})"


def install_command(extra: str) -> str:
    """Return the command that installs this package with `extra`, for messages about missing packages."""
    return f'pip install "{NAME}[{extra}]"'
