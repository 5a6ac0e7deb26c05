"""Shell. Check a saved history again: ``python -m tests.faults.linearizability FILE...``.

Prints for every key that is not linearizable the operations that show it, and the numbers of keys by verdict. Exits
with 0 if all keys are linearizable, with 1 after a violation, with 2 if a key is undecided or a file is no history.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from tests.faults.linearizability.checker import BOUNDS, Bounds, Verdict, check
from tests.faults.linearizability.counterexample import explain
from tests.faults.linearizability.operations import InvalidHistory, by_key, read


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.linearizability", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a history of JSON lines")
    parser.add_argument("--work", type=int, default=BOUNDS.work, help="steps for each key before it is undecided")
    options = parser.parse_args(arguments)
    verdicts: Counter[Verdict] = Counter()
    for file in options.files:
        try:
            with file.open() as lines:
                keys = by_key(read(lines))
        except (OSError, InvalidHistory) as error:
            print(f"{file}: {error}", file=sys.stderr)
            return 2
        found: Counter[Verdict] = Counter()
        for key, operations in keys.items():
            result = check(operations, Bounds(work=options.work))
            found[result.verdict] += 1
            if result.verdict is Verdict.VIOLATION:
                print(explain(operations, result))
            elif result.verdict is Verdict.UNDECIDED:
                print(f"{key}: undecided: {len(operations)} operations, {result.work} steps")
        counts = ", ".join(f"{found[verdict]} {verdict.value}" for verdict in Verdict)
        print(f"{file}: {sum(map(len, keys.values()))} operations on {len(keys)} keys: {counts}")
        verdicts += found
    if verdicts[Verdict.VIOLATION]:
        return 1
    return 2 if verdicts[Verdict.UNDECIDED] else 0


if __name__ == "__main__":
    sys.exit(main())
