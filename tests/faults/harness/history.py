"""Pure, but for the clock that is its default. Record what clients write and read, and check what was recorded.

Operations are recorded as they begin and end, for `tests.faults.linearizability`, which decides whether each key
behaved as one register. A write that has not ended has an unknown outcome: it may have happened or not. Writes of
one process are in order: after a write took effect, an earlier one of the same process does not.

Values contain their key, the number of their write, and bytes that follow from both: one that is mixed up, cut
short or of another key is recognised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from tests.faults.linearizability.checker import BOUNDS, Bounds, Result, Verdict, check
from tests.faults.linearizability.counterexample import explain
from tests.faults.linearizability.operations import Kind as Call
from tests.faults.linearizability.operations import Operation, Outcome, to_json


class Kind(Enum):
    """What can be wrong with a key."""

    LOST = "an acknowledged write is lost"
    INVENTED = "a value that was not written"
    BACK = "a deleted key is back"
    ORDER = "a condition that succeeded or failed wrongly"
    UNDECIDED = "the bounds of the check were exceeded"


class Write(NamedTuple):
    """A write that was begun. `value` None is a delete; `at`: its place in the history of its key."""

    key: str
    number: int
    value: bytes | None
    at: int


class Wrong(NamedTuple):
    """`report`: the operations that show it, some lines."""

    kind: Kind
    key: str
    report: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.report}"


@dataclass(slots=True)
class _Key:
    """`checked`: how many operations had been recorded or finished when `result` was found."""

    operations: list[Operation] = field(default_factory=list)
    deletes: set[int] = field(default_factory=set)
    last: int = 0
    changes: int = 0
    checked: int = -1
    found: Wrong | None = None


class History:
    """Operations by key. `large_bytes`: how large one value in 64 is. `clock`: nanoseconds, monotonic."""

    bounds = BOUNDS

    def __init__(
        self, keys: Iterable[str], large_bytes: int = 100_000, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.attempted = 0
        self.acknowledged = 0
        self.reads = 0
        self._large_bytes = large_bytes
        self._clock = clock
        self._last_time = 0
        self._keys = {key: _Key() for key in keys}

    @property
    def keys(self) -> list[str]:
        return list(self._keys)

    def value(self, key: str, number: int) -> bytes:
        """Return what the write of that number writes."""
        head = f"{key} {number} ".encode()
        seed = sha256(head).digest()
        size = self._large_bytes if seed[0] % 64 == 0 else 64 + 8 * seed[1]
        return head + (seed * (size // len(seed) + 1))[:size]

    def _now(self) -> int:
        """Return the time; each event has its own, in the order in which they are recorded."""
        self._last_time = max(self._clock(), self._last_time + 1)
        return self._last_time

    # ---- writing

    def begin(
        self,
        key: str,
        *,
        delete: bool = False,
        process: str = "writer",
        only_over: bytes | bool | None = True,
        in_order: bool = True,
    ) -> Write:
        """Record a write that is about to be tried; from now on it may be read.

        `only_over`: write only if the key holds this value, None: only if there is no object; True: in any case.
        `in_order`: see `Operation`.
        """
        one = self._keys[key]
        one.last += 1
        if delete:
            one.deletes.add(one.last)
        expected = None
        if isinstance(only_over, bytes):
            call = Call.DELETE_IF_MATCH if delete else Call.PUT_IF_MATCH
            expected = self._id(key, only_over)
        elif only_over is None:
            call = Call.PUT_IF_ABSENT
        else:
            call = Call.DELETE if delete else Call.PUT
        value = None if delete else f"w{one.last}"
        write = Write(key, one.last, None if delete else self.value(key, one.last), len(one.operations))
        one.operations.append(
            Operation(process, key, call, self._now(), None, Outcome.UNKNOWN, value, expected, in_order)
        )
        one.changes += 1
        self.attempted += 1
        return write

    def acknowledge(self, write: Write) -> None:
        """Record that it was acknowledged: from now on nothing older may be read."""
        self._end(write, Outcome.OK)
        self.acknowledged += 1

    def condition_failed(self, write: Write) -> None:
        """Record that its condition did not hold, and that it had no effect."""
        self._end(write, Outcome.CONDITION_FAILED)

    def rejected(self, write: Write) -> None:
        """Record that it certainly had no effect."""
        self._end(write, Outcome.FAILED)

    def _end(self, write: Write, outcome: Outcome) -> None:
        one = self._keys[write.key]
        one.operations[write.at] = replace(one.operations[write.at], responded=self._now(), outcome=outcome)
        one.changes += 1

    # ---- reading

    def mark(self, key: str) -> int:
        """Return the time at which a read of `key` begins, for `observed`."""
        assert key in self._keys
        return self._now()

    def observed(self, key: str, value: bytes | None, mark: int, where: str = "a read") -> None:
        """Record that a read that began at `mark` returned `value`."""
        one = self._keys[key]
        name = None if value is None else self._id(key, value)
        one.operations.append(Operation(where, key, Call.GET, mark, self._now(), Outcome.OK, name))
        one.changes += 1
        self.reads += 1

    def _id(self, key: str, value: bytes) -> str:
        """Return the id of the write that `value` is from, or one that no write has."""
        name, _, rest = value.partition(b" ")
        digits = rest.partition(b" ")[0]
        if name == key.encode() and digits.isdigit():
            number, one = int(digits), self._keys[key]
            if 0 < number <= one.last and number not in one.deletes and value == self.value(key, number):
                return f"w{number}"
        return f"{value[:40]!r} of {len(value)} bytes, sha256 {sha256(value).hexdigest()[:8]}"

    # ---- checking

    @property
    def wrong(self) -> list[Wrong]:
        """Return the keys that are not linearizable, or not known to be; each with the operations that show it."""
        found = []
        for one in self._keys.values():
            if one.checked != one.changes:
                one.checked, one.found = one.changes, _wrong(one.operations, self.bounds)
            if one.found is not None:
                found.append(one.found)
        return found

    def count(self, kind: Kind) -> int:
        return sum(wrong.kind is kind for wrong in self.wrong)

    def verdict(self) -> str:
        """Return a line of figures, and the reports on the first keys that are wrong."""
        found = ", ".join(f"{self.count(kind)} × {kind.value}" for kind in Kind)
        lines = [f"{self.attempted} writes tried, {self.acknowledged} acknowledged, {self.reads} reads: {found}"]
        return "\n".join([*lines, *(f"  {wrong}" for wrong in self.wrong[:20])])

    def save(self, file: Path) -> None:
        """Write the history as JSON lines; `python -m tests.faults.linearizability FILE` checks it again."""
        with file.open("w") as lines:
            for one in self._keys.values():
                lines.writelines(f"{to_json(operation)}\n" for operation in one.operations)


def _wrong(operations: list[Operation], bounds: Bounds) -> Wrong | None:
    result = check(operations, bounds)
    if result.verdict is Verdict.LINEARIZABLE:
        return None
    key = operations[0].key
    if result.verdict is Verdict.UNDECIDED:
        return Wrong(Kind.UNDECIDED, key, f"{key}: {len(operations)} operations, {result.work} steps")
    return Wrong(_kind(operations, result), key, explain(operations, result))


def _kind(operations: list[Operation], result: Result) -> Kind:
    failed = result.failed
    assert failed is not None
    if failed.kind is not Call.GET:
        return Kind.ORDER
    if failed.value is not None and not any(
        each.value == failed.value for each in operations if each.kind is not Call.GET
    ):
        return Kind.INVENTED
    return Kind.BACK if result.values == {None} else Kind.LOST
