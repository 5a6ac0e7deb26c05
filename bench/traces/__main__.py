"""Shell. Prints the ratios of hits of the eviction policies: ``python -m bench.traces``.

For each trace and size of the memory, the ratio of hits by EVICTION_POLICY, in percent, and beside it that of
libCacheSim's S3-FIFO where it is known. For a trace with sizes the ratio of bytes follows. Exits with 1 if a ratio
is further from the reference than the bounds in `reference.py`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.traces.reference import LIBCACHESIM, defects
from bench.traces.replay import Ratios, replay
from bench.traces.traces import NAMES, Trace, shipped_trace, trace_of_file
from milena_cache.eviction.policies import EVICTION_POLICIES

SHARES = (0.01, 0.05, 0.1, 0.25)


def main() -> int:
    """Replay what the command line asks for, and print a line for each size of the memory."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.traces", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", choices=NAMES, action="append", help="only this one; may be given several times")
    parser.add_argument(
        "--file",
        type=Path,
        action="append",
        default=[],
        help="a trace of yours: in each line the name of an object that was read, and perhaps its bytes",
    )
    options = parser.parse_args()
    names = options.trace or ([] if options.file else NAMES)
    try:
        traces = [shipped_trace(name) for name in names] + [trace_of_file(path) for path in options.file]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(
        f"{'trace':<12} {'memory':>7}", *(f"{policy:>12}" for policy in EVICTION_POLICIES), "  libCacheSim S3-FIFO"
    )
    found = [line for trace in traces for share in SHARES for line in _show(trace, share)]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


def _show(trace: Trace, share: float) -> list[str]:
    """Print the line of one size; return what is wrong with it."""
    ratios = {policy: replay(trace, share, policy) for policy in EVICTION_POLICIES}
    reference = LIBCACHESIM.get((trace.name, share))
    cells = (f"{_cell(ratio, trace):>12}" for ratio in ratios.values())
    print(f"{trace.name:<12} {share:>7.0%}", *cells, f"  {reference:.2f}" if reference else "", flush=True)
    return defects(trace.name, share, {policy: 100 * ratio.hits for policy, ratio in ratios.items()})


def _cell(ratio: Ratios, trace: Trace) -> str:
    hits = f"{100 * ratio.hits:.2f}"
    return hits if trace.sizes is None else f"{hits}/{100 * ratio.bytes:.2f}"


if __name__ == "__main__":
    sys.exit(main())
