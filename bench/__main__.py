"""Shell. ``python -m bench``: runs the cases, prints medians and ratios, writes all samples to a JSON file.

With ``--report`` it runs none, and makes one page of all these files.

It wires cases and fixtures, for one build or for two. After Ctrl-C the finished cases are reported.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from bench.against import Comparison, comparison_table, run_against
from bench.case import Case, Samples, Skipped, Variant
from bench.cases import (
    clients,
    copies,
    disk_cache,
    encrypted,
    files,
    growth,
    large_objects,
    moves,
    reads,
    resp_server,
    s3_endpoint,
    start,
    workers,
    writeback,
    writes,
)
from bench.fixtures import Fixtures, Scale
from bench.machine import machine_facts
from bench.page.document import page
from bench.page.runs import Run, read_run
from bench.peers.stub_process import ROOT
from bench.report import as_json, table
from bench.summary import Result, summarize

_PARTS = (
    reads,
    clients,
    files,
    large_objects,
    resp_server,
    s3_endpoint,
    workers,
    encrypted,
    growth,
    writes,
    copies,
    disk_cache,
    writeback,
    moves,
    start,
)
CASES = {case.name: case for part in _PARTS for case in part.CASES}

RESULTS = ROOT / "bench" / "results"
FULL = Scale(
    1.0,
    (1_000, 10_000, 100_000, 1_000_000),
    backlog=200_000,
    drained=20_000,
    replayed=1_000_000,
    file_rows=655_360,
    large_bytes=2**30,
)
QUICK = Scale(
    0.2,
    (1_000, 100_000),
    backlog=100_000,
    drained=2_000,
    replayed=20_000,
    file_rows=65_536,
    large_bytes=128 * 2**20,
)


def show_progress(text: str) -> None:
    """Overwrite one line on standard error; do nothing where that is not a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def run_case(case: Case, fixtures: Fixtures, rounds: int) -> Result:
    """Run all variants in each round, each round beginning with another one."""
    show_progress("")
    print(f"{case.name}: starting", file=sys.stderr, flush=True)
    with case.open(fixtures) as offered:
        variants = [each for each in offered if isinstance(each, Variant)]
        skipped = [each for each in offered if isinstance(each, Skipped)]
        samples: dict[str, list[Samples]] = {variant.name: [] for variant in variants}
        for number in range(rounds):
            first = number % len(variants)
            for variant in (*variants[first:], *variants[:first]):
                show_progress(f"{case.name}: round {number + 1} of {rounds}: {variant.name}")
                samples[variant.name].append(variant.run())
    return summarize(case, samples, skipped)


def write_page(results: Path, file: Path) -> int:
    """Write the page of all result files in `results` to `file`; return the exit code: 1 if there are none."""
    runs: list[Run] = []
    unread: list[str] = []
    for each in sorted(results.glob("*.json")):
        try:
            runs.append(read_run(each.name, each.read_text()))
        except ValueError as error:
            unread.append(str(error))
    for reason in unread:
        print(f"not shown: {reason}", file=sys.stderr)
    if not runs:
        print(f"{results} has no results; python -m bench makes them", file=sys.stderr)
        return 1
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(runs, unread))
    print(f"written to {file}", file=sys.stderr)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 130 after Ctrl-C, with the finished cases reported, or that of `write_page`."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures Milena against its peers.")
    parser.add_argument("--case", action="append", choices=CASES, metavar="NAME", help="|".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: bench/results/TIME.json")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="compare with the build in DIR, whose environment is DIR/.venv"
    )
    parser.add_argument("--quick", action="store_true", help="short rounds and fewer objects: a smoke test")
    parser.add_argument(
        "--report",
        type=Path,
        nargs="?",
        const=RESULTS / "report.html",
        metavar="FILE",
        help="run nothing, make a page of bench/results/*.json; default: bench/results/report.html",
    )
    options = parser.parse_args(arguments)
    if options.report:
        return write_page(RESULTS, options.report)
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    if options.against and not (options.against / ".venv" / "bin" / "python").exists():
        parser.error(f"--against: {options.against}/.venv has no Python")
    started = datetime.now(UTC)
    load = round(os.getloadavg()[0], 2)  # of other work: nothing of this run has begun
    file = options.json or RESULTS / f"{started:%Y%m%d-%H%M%S}.json"
    scale = QUICK if options.quick else FULL
    results: list[Result] = []
    comparisons: list[Comparison] = []
    code = 0
    RESULTS.mkdir(exist_ok=True)
    # Not in the default directory of temporary files: that may be memory, and journals are measured on a disk.
    with tempfile.TemporaryDirectory(prefix="run-", dir=RESULTS) as directory:
        fixtures = Fixtures(Path(directory), scale)
        other = Fixtures(fixtures.new_directory(), scale, options.against.resolve()) if options.against else None
        with closing(fixtures), closing(other) if other else nullcontext():
            try:
                for name in options.case or CASES:
                    if other is not None:
                        case = CASES[name]
                        comparisons.append(run_against(case, fixtures, other, options.rounds, show_progress))
                        show_progress("")
                        print(comparison_table(comparisons[-1]), flush=True)
                        continue
                    results.append(run_case(CASES[name], fixtures, options.rounds))
                    show_progress("")
                    print(table(results[-1]), flush=True)
            except KeyboardInterrupt:
                show_progress("")
                print("interrupted", file=sys.stderr)
                code = 130
    facts = {
        "started": started.isoformat(timespec="seconds"),
        "rounds": options.rounds,
        "seconds": scale.seconds,
        "load": load,
        "machine": machine_facts(RESULTS),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(as_json(facts, results, comparisons))
    print(f"written to {file}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
