"""Shell. Faults of a ring of real processes: ``python -m tests.faults.ring_faults --minutes 20``.

Prints a table with a line for each kind of fault: the acknowledged writes, the keys that are not linearizable, and
the longest seconds in which no call for a key succeeded. Exits with 1 after a violation, a traceback, or if a key
was unavailable for more than a lease and 2 s.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from tests.faults.harness.system import scratch
from tests.faults.ring_faults.faults import FAULTS
from tests.faults.ring_faults.run import run
from tests.faults.ring_faults.system import COPIES, LEASE_SECONDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.ring_faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lease", type=float, default=LEASE_SECONDS, help="LEASE_SECONDS")
    parser.add_argument("--copies", type=int, default=COPIES, help="COPIES of all nodes")
    parser.add_argument("--only", default="", help="only faults whose names contain this text")
    parser.add_argument(
        "--directory", type=Path, help="keep the processes' logs and journals in this new directory"
    )
    parser.add_argument("--histories", type=Path, help="save what clients did, for tests.faults.linearizability")
    options = parser.parse_args()
    if options.histories:
        options.histories.mkdir(parents=True, exist_ok=True)
    faults = [fault for fault in FAULTS if options.only in fault]
    show = partial(print, flush=True)
    with scratch() as temporary:
        directory = options.directory or temporary
        directory.mkdir(parents=True, exist_ok=True)
        outcome = run(
            directory,
            60 * options.minutes,
            options.seed,
            faults,
            options.histories,
            show,
            options.lease,
            options.copies,
        )
    print(f"\nring faults, seed {options.seed}; seconds are the longest\n{outcome.table()}")
    for title, lines in (
        ("violations", outcome.violations),
        ("tracebacks", outcome.defects),
        ("unavailable for too long", outcome.too_long()),
        ("expected losses", [line for each in outcome.rounds for line in each.losses][:3]),
    ):
        print(f"{title}: {len(lines)}", *lines[:20], sep="\n  ")
    return int(not outcome.right)


if __name__ == "__main__":
    sys.exit(main())
