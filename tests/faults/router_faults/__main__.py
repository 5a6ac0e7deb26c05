"""Shell. Faults of several routers, their etcd and nodes: ``python -m tests.faults.router_faults --minutes 10``.

Prints a line for each round. Exits with 1 after a violation, a traceback, or if a key was unavailable for more than
2 s, or if a node was lost for more than a lease besides.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from tests.faults.harness.system import scratch
from tests.faults.router_faults.run import FAULTS, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.router_faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=3, help="members of etcd: 1 or 3")
    parser.add_argument("--only", default="", help="only faults whose names contain this text")
    parser.add_argument("--directory", type=Path, help="keep the processes' logs in this new directory")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if options.only in fault]
    with scratch() as temporary:
        directory = options.directory or temporary
        directory.mkdir(parents=True, exist_ok=True)
        show = partial(print, flush=True)
        outcome = run(directory, 60 * options.minutes, options.seed, faults, options.members, show)
    for title, lines in (
        ("violations", outcome.violations),
        ("tracebacks", outcome.defects),
        ("unavailable for too long", outcome.too_long()),
    ):
        print(f"{title}: {len(lines)}", *lines[:20], sep="\n  ")
    return int(bool(outcome.violations or outcome.defects or outcome.too_long()))


if __name__ == "__main__":
    sys.exit(main())
