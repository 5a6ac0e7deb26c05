"""Shell. The command `milena-cache`.

It imports the process only to run it, so that `--help` works without the packages of the extra `server`.
"""

from __future__ import annotations

import sys

from milena_common.process.command import start


def main() -> None:
    """Run a cache node, or print the help."""

    def variables() -> frozenset[str]:
        from milena_cache.configuration.config import variables as names

        return names()

    def run() -> None:
        from milena_cache.__main__ import main as run_node

        run_node()

    about = "A node of a Milena cache: serves objects of an S3 bucket from memory, and writes back to it."
    sys.exit(start("milena-cache", about, sys.argv[1:], variables, run))
