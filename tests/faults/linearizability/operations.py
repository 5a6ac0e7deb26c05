"""Pure. The operations of a history: a register per key, with delete and compare-and-swap; as JSON lines in a file.

A value is named by an id, a short text: two values have the same id if and only if their bytes are equal, as with
ETags. None is the absence of an object.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What was called. `*_IF_MATCH` needs the value `expected`, `PUT_IF_ABSENT` needs that there is no object."""

    GET = "get"
    PUT = "put"
    DELETE = "delete"
    PUT_IF_MATCH = "put_if_match"
    PUT_IF_ABSENT = "put_if_absent"
    DELETE_IF_MATCH = "delete_if_match"


class Outcome(StrEnum):
    """How a call ended.

    - OK: it took effect between its invocation and its response.
    - CONDITION_FAILED: it had no effect, and the condition did not hold at some time between the two.
    - FAILED: it had no effect, and returned nothing that is checked.
    - UNKNOWN: it took effect at some time after its invocation, or never. With a response: not after that.
    """

    OK = "ok"
    CONDITION_FAILED = "condition_failed"
    FAILED = "failed"
    UNKNOWN = "unknown"


CONDITIONAL = frozenset({Kind.PUT_IF_MATCH, Kind.PUT_IF_ABSENT, Kind.DELETE_IF_MATCH})
MATCHING = frozenset({Kind.PUT_IF_MATCH, Kind.DELETE_IF_MATCH})
PUTS = frozenset({Kind.PUT, Kind.PUT_IF_MATCH, Kind.PUT_IF_ABSENT})


class InvalidHistory(ValueError):
    """A history that cannot have been recorded; the message names the line and the field."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call for one key.

    `invoked` and `responded`: nanoseconds of one monotonic clock; `responded` is None if the outcome is unknown and
    the call may still take effect. `value`: the id of the value written, or of the one that a get returned; None
    is no object. `expected`: the id of the value that `*_IF_MATCH` names. `in_order`: an earlier write of the same
    process takes no effect after this one, also if its outcome is unknown. Raises InvalidHistory.
    """

    process: str
    key: str
    kind: Kind
    invoked: int
    responded: int | None
    outcome: Outcome
    value: str | None = None
    expected: str | None = None
    in_order: bool = False

    def __post_init__(self) -> None:
        if self.responded is None:
            if self.outcome is not Outcome.UNKNOWN:
                raise InvalidHistory(f"responded_ns is missing, and the outcome is {self.outcome}: {self}")
        elif self.responded < self.invoked:
            raise InvalidHistory(f"responded_ns is before invoked_ns: {self}")
        if self.kind is not Kind.GET and (self.value is None) is (self.kind in PUTS):
            raise InvalidHistory(f"a put needs a value, a delete has none: {self}")
        if (self.expected is None) is (self.kind in MATCHING):
            raise InvalidHistory(f"expected is for put_if_match and delete_if_match: {self}")
        if self.outcome is Outcome.CONDITION_FAILED and self.kind not in CONDITIONAL:
            raise InvalidHistory(f"condition_failed is for calls with a condition: {self}")

    @property
    def phrase(self) -> str:
        """Return the call in words, for a report: "put_if_match a: b"."""
        if self.kind is Kind.GET:
            returned = "" if self.outcome is not Outcome.OK else f": {self.value or 'no object'}"
            return f"get{returned}"
        return " ".join(
            [self.kind, *([f"{self.expected}:"] if self.expected else []), *([self.value] if self.value else [])]
        )


def to_json(operation: Operation) -> str:
    """Return the line of a history for `operation`."""
    return json.dumps(
        {
            "process": operation.process,
            "key": operation.key,
            "operation": operation.kind,
            "invoked_ns": operation.invoked,
            "responded_ns": operation.responded,
            "outcome": operation.outcome,
            "value": operation.value,
            "expected": operation.expected,
            "in_order": operation.in_order,
        }
    )


def from_json(line: str) -> Operation:
    """Return the operation of a line of a history. Raises InvalidHistory."""
    try:
        fields = json.loads(line)
        return Operation(
            process=str(fields["process"]),
            key=str(fields["key"]),
            kind=Kind(fields["operation"]),
            invoked=int(fields["invoked_ns"]),
            responded=None if fields["responded_ns"] is None else int(fields["responded_ns"]),
            outcome=Outcome(fields["outcome"]),
            value=fields.get("value"),
            expected=fields.get("expected"),
            in_order=bool(fields.get("in_order", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidHistory(f"{type(error).__name__} {error}: {line[:200]!r}") from error


def read(lines: Iterable[str]) -> Iterator[Operation]:
    """Yield the operations of the lines of a file; empty lines are skipped. Raises InvalidHistory."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield from_json(line)
            except InvalidHistory as error:
                raise InvalidHistory(f"line {number}: {error}") from error


def by_key(operations: Iterable[Operation]) -> Mapping[str, list[Operation]]:
    """Return the operations of each key, in the order given."""
    keys: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        keys[operation.key].append(operation)
    return keys
