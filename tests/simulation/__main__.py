"""Shell. Run many seeds: ``python -m tests.simulation --seeds 0:10000 --processes 2``, or one, with a line for all
that happens.

Prints the verdicts, the coverage of pairs of faults, and for each violation the operations that show it, the file
that has the history, and the command that runs the seed again. Exits with 1 after a violation, with 2 if a key is
undecided.

The order of a set depends on PYTHONHASHSEED and on the addresses of objects, and with it the run. So PYTHONHASHSEED
is set to 0, unless it is set, and each seed runs in a process of its own, forked from one that has run the same
seed before, and forks one seed after the other.
"""

from __future__ import annotations

import argparse
import gc
import os
import pickle
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

from tests.faults.linearizability.operations import to_json
from tests.simulation.faults import LOSS_PAIRS, Kind, coverage, pairs
from tests.simulation.run import SeedResult, Verdict, print_line, run_seed

# The seed that is run before the others, without a result.
WARM_UP = 0
# Seconds between two lines about the progress, on standard error.
PROGRESS_SECONDS = 30.0
# Violations that are printed in full.
MAX_REPORTS = 10
# Verdicts of seeds that are reported, with their operations.
REPORTED = (Verdict.VIOLATION, Verdict.UNDECIDED)


def main(arguments: list[str] | None = None) -> int:
    """Run what the arguments say, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0:100", metavar="FIRST:LAST", help="seeds from FIRST to before LAST")
    parser.add_argument("--seed", type=int, help="only this seed, with everything that happens")
    parser.add_argument("--routers", type=int, default=0, help="the number of routers; 0: the seed decides")
    parser.add_argument("--copies", type=int, default=0, help="COPIES of all nodes; 0: the seed decides")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--histories", type=Path, default=Path("simulation-histories"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _one(options.seed, options.routers, options.copies, options.histories)
    first, _, last = options.seeds.partition(":")
    run = partial(run_seed, routers=options.routers, copies=options.copies)
    return _many(run, range(int(first), int(last)), options.processes, options.histories)


def _one(seed: int, routers: int, copies: int, histories: Path) -> int:
    run = partial(run_seed, routers=routers, copies=copies, log=print_line)
    result = next(_results(run, range(seed, seed + 1), 1))
    print(f"digest {result.digest}")
    return _summary([result], histories)


def _many(run: Callable[[int], SeedResult], seeds: range, processes: int, histories: Path) -> int:
    started = time.perf_counter()
    code = _summary(_with_progress(_results(run, seeds, processes), len(seeds)), histories)
    took = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"{took:.1f} s, {took / len(seeds):.2f} s and {cpu / len(seeds):.2f} CPU s a seed, {processes} processes")
    return code


def _with_progress(results: Iterable[SeedResult], number: int) -> Iterator[SeedResult]:
    """Yield `results`, and print to standard error how many of `number` are done, and how long the rest takes."""
    began = printed = time.perf_counter()
    violations = 0
    for done, result in enumerate(results, 1):
        yield result
        violations += result.verdict in REPORTED
        now = time.perf_counter()
        if now - printed >= PROGRESS_SECONDS and done < number:
            printed = now
            minutes = (now - began) * (number - done) / done / 60
            print(f"{done} of {number} seeds, {violations} violations; {minutes:.0f} minutes left", file=sys.stderr)


def _results(run: Callable[[int], SeedResult], seeds: range, processes: int) -> Iterator[SeedResult]:
    """Yield the results of `seeds` in their order; `processes` of them run at a time.

    Raises EOFError if one could not be run.
    """
    # Caches and the interpreter's specialised code are filled once, and not in each process: 14 % less time.
    run_seed(WARM_UP, routers=1)
    # What was imported is never collected, so it is not copied in each process.
    gc.collect()
    gc.freeze()
    sys.stdout.flush()
    workers: list[tuple[int, IO[bytes]]] = []
    for number in range(min(processes, len(seeds))):
        receiving, sending = os.pipe()
        worker = os.fork()
        if not worker:
            os.close(receiving)
            for _, received in workers:
                received.close()
            _work(run, seeds[number::processes], sending)
        os.close(sending)
        workers.append((worker, os.fdopen(receiving, "rb")))
    try:
        for number in range(len(seeds)):
            yield pickle.load(workers[number % len(workers)][1])
    finally:
        for worker, received in workers:
            received.close()
            os.waitpid(worker, 0)


def _work(run: Callable[[int], SeedResult], seeds: range, sending: int) -> NoReturn:
    """Run one seed after the other, each in a new process, which sends the result. Exits."""
    for seed in seeds:
        process = os.fork()
        if not process:
            code = 1
            try:
                result = run(seed)
                if result.verdict in REPORTED:
                    result.operations = tuple(result.operations)
                else:
                    result.operations = ()
                with os.fdopen(sending, "wb") as to:
                    pickle.dump(result, to)
                sys.stdout.flush()
                code = 0
            except BaseException:
                print(f"seed {seed} could not be run:", file=sys.stderr)
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(process, 0)
        if status:
            break  # the traceback is printed, or the reader has gone
    os._exit(0)


def _summary(results: Iterable[SeedResult], histories: Path) -> int:
    """Print what came of the seeds, and return the exit code."""
    seeds: Counter[Verdict] = Counter()
    keys: Counter[Verdict] = Counter()
    outcomes: Counter[str] = Counter()
    kinds: Counter[tuple[Kind, Kind]] = Counter()
    named: Counter[str] = Counter(dict.fromkeys(LOSS_PAIRS, 0))
    clusters: Counter[tuple[int, int]] = Counter()
    fencing = copied = given_up = copied_rings = 0
    for result in results:
        seeds[result.verdict] += 1
        keys += result.keys
        outcomes += result.outcomes
        kinds += pairs(result.plan)
        named.update(result.loss_pairs)
        clusters[result.routers, result.copies] += 1
        fencing += result.fencing
        copied += bool(result.copied_rings)
        copied_rings += result.copied_rings
        given_up += bool(result.given_up)
        if result.verdict in REPORTED and seeds[result.verdict] <= MAX_REPORTS:
            print("\n".join(failure(result, histories)), flush=True)
    print("\n".join(coverage(kinds)))
    print(f"losses, in seeds: {', '.join(f'{number} {name}' for name, number in named.items())}")
    print(
        "clusters, in seeds: "
        + ", ".join(
            f"{number} with COPIES={copies} and {routers} router{'s on etcd' if routers > 1 else ''}"
            for (routers, copies), number in sorted(clusters.items())
        )
    )
    print(f"operations: {', '.join(f'{number} {outcome}' for outcome, number in outcomes.items())}")
    print(f"fencing rings in {fencing} of {seeds.total()} seeds")
    print(f"all copies in {copied_rings} rings of {copied} seeds; slots were given up in {given_up} seeds")
    print(f"keys: {', '.join(f'{keys[verdict]} {verdict}' for verdict in Verdict)}")
    print(f"seeds: {', '.join(f'{seeds[verdict]} {verdict}' for verdict in Verdict)}")
    if seeds[Verdict.VIOLATION]:
        return 1
    return 2 if seeds[Verdict.UNDECIDED] else 0


def failure(result: SeedResult, histories: Path) -> Iterator[str]:
    """Save the history of a seed that failed; yield the lines that say what is wrong and how to run it again."""
    histories.mkdir(parents=True, exist_ok=True)
    file = histories / f"seed-{result.seed}.jsonl"
    file.write_text("".join(to_json(each) + "\n" for each in result.operations))
    yield f"seed {result.seed}: {result.verdict}, {result.routers} routers, COPIES={result.copies}"
    yield from (f"  {fault}" for fault in result.plan)
    yield from result.reports
    yield f"  history: {file}; checked again by: python -m tests.faults.linearizability {file}"
    hash_seed = os.environ.get("PYTHONHASHSEED", "random")
    arguments = f"--seed {result.seed} --routers {result.routers} --copies {result.copies}"
    yield f"  the same run: PYTHONHASHSEED={hash_seed} python -m tests.simulation {arguments}"


if __name__ == "__main__":
    if "PYTHONHASHSEED" not in os.environ:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
