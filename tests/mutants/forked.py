"""Shell. Runs the tests of faults of the cluster and of large objects: ``python -m tests.mutants.forked``.

Each takes a few seconds. ``python -m tests.mutants.forked 0 2`` runs the first of two halves.

It changes the source tree that it is run in: a copy (`run.copy`). The libraries are imported once, and the source
is compiled once; that a file has changed since is seen by its hash. For each fault a process is forked that imports
the changed source, and runs the one test that must fail. Prints the faults that are not noticed, and exits with 1
if there are any.
"""

from __future__ import annotations

import compileall
import os
import signal
import sys
from collections.abc import Iterable
from py_compile import PycInvalidationMode

import pytest

from tests.mutants.cluster_mutants import CLUSTER_BUGS
from tests.mutants.copy_mutants import COPY_BUGS
from tests.mutants.event_mutants import EVENT_BUGS
from tests.mutants.large_object_mutants import LARGE_OBJECT_BUGS
from tests.mutants.mutant import Bug
from tests.mutants.prefix_job_mutants import PREFIX_JOB_BUGS
from tests.mutants.run import NO_TESTS, ROOT, USAGE_ERROR, with_bug
from tests.mutants.sample_mutants import SAMPLE_BUGS

OWN = ("milena_cache", "milena_client", "milena_common", "milena_router", "tests")
BUGS = (
    *(*CLUSTER_BUGS, *COPY_BUGS, *EVENT_BUGS),
    *(*LARGE_OBJECT_BUGS, *PREFIX_JOB_BUGS, *SAMPLE_BUGS),
)
# Protobuf rejects a second registration of its messages, which no fault changes.
KEPT = "milena_common.api.pb"
# A fault may let a test wait for ever.
MAX_SECONDS = 60


def is_noticed(bug: Bug) -> bool:
    """Return True if a test fails with the fault. Raises RuntimeError if a test could not be run."""
    with with_bug(ROOT, bug):
        process = os.fork()
        if not process:
            _run(bug.tests)
        _, status = os.waitpid(process, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) in (USAGE_ERROR, NO_TESTS):
        raise RuntimeError(f"the tests of {bug.name!r} could not be run: {', '.join(bug.tests)}")
    return status != 0


def _run(tests: Iterable[str]) -> None:
    """Run tests with the modules of this tree as they are now. Exits with pytest's code."""
    code = 1
    try:
        signal.alarm(MAX_SECONDS)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        for name in [*sys.modules]:
            if name.partition(".")[0] in OWN and not name.startswith(KEPT):
                del sys.modules[name]
        code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=no", *tests]))
    finally:
        os._exit(code)


def main(part: int = 0, parts: int = 1) -> int:
    bugs = BUGS[part::parts]
    for package in OWN:
        compileall.compile_dir(ROOT / package, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    missed = []
    for bug in bugs:
        before = os.times()
        noticed = is_noticed(bug)
        if not noticed:
            missed.append(bug.name)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        print(f"{'noticed' if noticed else 'NOT NOTICED'}, {used:.1f} s of the processor: {bug.name}", flush=True)
    print(f"{len(bugs) - len(missed)} of {len(bugs)} faults noticed")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
