"""Shell. The command `milena-router`.

It imports the process only to run it, so that `--help` works without the packages of the extra `server`.
"""

from __future__ import annotations

import sys

from milena_common.process.command import start
from milena_router.config import variables


def main() -> None:
    """Run the router, or print the help."""

    def run() -> None:
        from milena_router.__main__ import main as run_router

        run_router()

    about = (
        "The router of a Milena cache: maintains the ring of nodes, and forwards requests to the owners of keys."
    )
    sys.exit(start("milena-router", about, sys.argv[1:], variables, run))
