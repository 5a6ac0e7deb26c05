"""Shell. Whether the tests notice what they are for: ``python -m tests.mutants.run``.

The source tree is copied, one deliberate fault after another is planted in the copy (`bugs`), and the tests that
should notice it are run there. First they run without any: they must pass. ``--only WORDS`` plants the faults whose
name contains that, ``--quick`` runs no test that starts processes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.faults.harness.system import scratch
from tests.mutants.mutant import Bug, Change
from tests.mutants.mutants import BUGS

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("bench", "milena_cache", "milena_client", "milena_common", "milena_router", "tests", "pyproject.toml")
RUN_SECONDS = 300.0
END_SECONDS = 30.0
USAGE_ERROR, NO_TESTS = 4, 5
# How short an example of a failure is does not matter here, and to find out would take minutes.
NO_SHRINKING = """

from hypothesis import Phase

settings.register_profile("planted", settings.get_profile("milena"), phases=(Phase.explicit, Phase.generate))
settings.load_profile("planted")
"""


class DoesNotApply(Exception):
    """The source is not what the change expects."""


def apply_mutant(root: Path, change: Change) -> str:
    """The text of the file with the change. Raises DoesNotApply."""
    text = (root / change.file).read_text()
    if text.count(change.old) != 1:
        raise DoesNotApply(f"{change.file} has {text.count(change.old)} times, and not once: {change.old!r}")
    return text.replace(change.old, change.new)


def missing_tests(root: Path, bugs: Iterable[Bug]) -> list[str]:
    """The tests that are named and are not there."""
    missing = []
    for name in sorted({test for bug in bugs for test in bug.tests}):
        file, _, function = name.partition("::")
        path = root / file
        if not path.is_file() or (function and f"def {function}(" not in path.read_text()):
            missing.append(name)
    return missing


@contextmanager
def with_bug(root: Path, bug: Bug) -> Iterator[None]:
    """The tree has the bug inside the block."""
    before = {change.file: (root / change.file).read_text() for change in bug.changes}
    try:
        for change in bug.changes:
            (root / change.file).write_text(apply_mutant(root, change))
        yield
    finally:
        for file, text in before.items():
            (root / file).write_text(text)


def environment(root: Path) -> dict[str, str]:
    """Return the environment of a run in the tree at `root`: without variables of the run that started it."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(root), "CI": "true"}


def failing(root: Path, tests: Sequence[str]) -> list[str]:
    """Run tests of the tree at `root`; those that fail, by name."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "--tb=no", *tests]
    with subprocess.Popen(
        command, cwd=root, env=environment(root), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pytest:
        try:
            said, _ = pytest.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.send_signal(signal.SIGINT)  # so that it ends what it started
            try:
                pytest.communicate(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                pytest.kill()
            return ["the run, which does not end"]
    if pytest.returncode in (USAGE_ERROR, NO_TESTS):
        raise RuntimeError(f"pytest ended with {pytest.returncode}:\n{said[-4000:]}")
    # A bug may bring down the run itself, before it reports which test it was.
    return re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.M) or ["the run"] * bool(pytest.returncode)


def copy(to: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, to / name)
    with (to / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(NO_SHRINKING)


def _chosen(bugs: Iterable[Bug], quick: bool) -> list[Bug]:
    """Return `bugs` with the tests to run; if `quick`, without those that only tests with processes can notice."""
    if not quick:
        return [*bugs]
    left = [bug._replace(tests=_in_process(bug.tests)) for bug in bugs]
    for bug in left:
        if not bug.tests:
            print(f"not planted, since only tests that start processes notice it: {bug.name}")
    return [bug for bug in left if bug.tests]


def _in_process(tests: Iterable[str]) -> tuple[str, ...]:
    return tuple(test for test in tests if not test.startswith("tests/faults/test_"))


def run(root: Path, bugs: Sequence[Bug]) -> bool:
    """Apply each, print which test notices it; whether all were noticed by tests that otherwise pass."""
    for test in sorted({test for bug in bugs for test in bug.tests}):
        if names := failing(root, [test]):
            print(f"without a bug, these fail: {', '.join(names)}")
            return False
    unnoticed = 0
    for number, bug in enumerate(bugs, 1):
        started = time.monotonic()
        with with_bug(root, bug):
            found = {test: failing(root, [test]) for test in bug.tests}
        by = [test for test, names in found.items() if names]
        unnoticed += not by
        print(f"{number:2} {bug.name}: {'noticed' if by else 'NOT NOTICED'}, {time.monotonic() - started:.0f} s")
        for test, names in found.items():
            print(f"     {'fails ' if names else 'passes'} {test}{f', {len(names)} tests' * (len(names) > 1)}")
        sys.stdout.flush()
    print(f"{len(bugs) - unnoticed} of {len(bugs)} bugs noticed")
    return not unnoticed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("--only", default="", metavar="WORDS")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    bugs = _chosen((bug for bug in BUGS if options.only in bug.name), options.quick)
    with scratch() as directory:
        copy(directory)
        return int(not run(directory, bugs))


if __name__ == "__main__":
    sys.exit(main())
