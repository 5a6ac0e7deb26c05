"""Pure. Reduce a history of one key that is not linearizable to few operations, and print them.

Each reduction keeps the proof: if what remains is not linearizable, then neither is the whole history. It is cut
after the response at which no order was left; calls still in flight there have an unknown outcome. Failed
conditions are left out, and writes that succeeded are taken without their conditions, if the rest still has no
order. Then operations are taken away (delta debugging, Zeller and Hildebrandt 2002) while the rest stays without
an order: those that only observe, singly; writes only together with all operations that name their value, since
otherwise a read would have nothing to read from. While a failed condition remains, writes are kept: it may be the
write in between that made it fail.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace

from tests.faults.linearizability.checker import Bounds, Result, Verdict, check
from tests.faults.linearizability.operations import CONDITIONAL, PUTS, Kind, Operation, Outcome

MAX_CHECKS = 400
# What remains must fail within this, so that the reduction of a large history ends.
REDUCED = Bounds(work=500_000, configurations=20_000)
MAX_LINES = 40


def prefix(operations: Iterable[Operation], failed: Operation) -> list[Operation]:
    """Return the operations up to the response of `failed`, those in flight there with an unknown outcome."""
    until = failed.responded
    assert until is not None
    kept = []
    for each in operations:
        if each.invoked > until or each.outcome is Outcome.FAILED:
            continue
        if each.responded is None or each.responded > until:
            if _only_observes(each):
                continue
            each = replace(each, outcome=Outcome.UNKNOWN, responded=None)
        elif each.kind is Kind.GET and each.outcome is not Outcome.OK:
            continue
        kept.append(each)
    return sorted(kept, key=lambda each: each.invoked)


def minimal(operations: Iterable[Operation], failed: Operation, bounds: Bounds = REDUCED) -> list[Operation]:
    """Return few operations of the history that are not linearizable by themselves, in the order of invocation."""
    checks = 0

    def fails(kept: Sequence[Operation]) -> bool:
        nonlocal checks
        checks += 1
        return checks <= MAX_CHECKS and check(kept, bounds).verdict is Verdict.VIOLATION

    kept = prefix(operations, failed)
    succeeded = [each for each in kept if each.outcome is not Outcome.CONDITION_FAILED]
    for fewer in ([_without_condition(each) for each in succeeded], succeeded):
        if fails(fewer):
            kept = _reduced(fewer, _values(fewer), fails)
            break
    kept = _reduced(kept, [position if _only_observes(each) else None for position, each in enumerate(kept)], fails)
    if not any((each.value is None and _only_observes(each)) or each.kind in CONDITIONAL for each in kept):
        # No call sees the absence of an object, so each delete may go by itself.
        deletes = [position if each.kind is Kind.DELETE else None for position, each in enumerate(kept)]
        kept = _reduced(kept, deletes, fails)
    return kept


def _only_observes(operation: Operation) -> bool:
    return operation.kind is Kind.GET or operation.outcome is Outcome.CONDITION_FAILED


def _without_condition(operation: Operation) -> Operation:
    if operation.kind not in CONDITIONAL:
        return operation
    return replace(operation, kind=Kind.PUT if operation.kind in PUTS else Kind.DELETE, expected=None)


def _values(operations: Sequence[Operation]) -> list[Hashable]:
    """Return for each operation the name of its group: values that one operation names are in one group."""
    leader: dict[str | None, str | None] = {}

    def find(value: str | None) -> str | None:
        while leader.setdefault(value, value) != value:
            value = leader[value]
        return value

    for each in operations:
        if each.kind is Kind.PUT_IF_ABSENT:
            leader[find(each.value)] = find(None)
        elif each.expected is not None:
            leader[find(each.value)] = find(each.expected)
    return [("group", find(each.value)) for each in operations]


def _reduced(
    operations: Sequence[Operation], groups: Sequence[Hashable], fails: Callable[[Sequence[Operation]], bool]
) -> list[Operation]:
    """Take away whole groups while the rest fails; operations whose group is None stay."""
    names = list(dict.fromkeys(group for group in groups if group is not None))

    def without(removed: set[Hashable]) -> list[Operation]:
        return [each for each, group in zip(operations, groups, strict=True) if group not in removed]

    gone: set[Hashable] = set()
    size = max(len(names) // 2, 1)
    while names:
        at = 0
        progress = False
        while at < len(names):
            chunk = names[at : at + size]
            if fails(without(gone | set(chunk))):
                gone |= set(chunk)
                del names[at : at + size]
                progress = True
            else:
                at += size
        if size == 1 and not progress:
            break
        size = max(size // 2, 1)
    return without(gone)


def explain(operations: Sequence[Operation], result: Result) -> str:
    """Return a report on a `result` that is a violation: what failed, and the operations that show it."""
    failed = result.failed
    assert failed is not None
    shown = minimal(operations, failed)
    again = check(shown, REDUCED)
    if again.failed is not None:
        failed, result = again.failed, again
    could = ", ".join(sorted(value or "no object" for value in result.values))
    lines = [
        f"{failed.key}: no order explains {failed.process}'s {failed.phrase} ({failed.outcome}); "
        f"when it was to take effect, the key could hold: {could}"
    ]
    if failed.kind is Kind.GET and failed.value is not None and not _is_written(failed.value, operations):
        lines.append(f"  no operation wrote {failed.value}")
    start = min(each.invoked for each in shown)
    lines.append(f"  {'invoked ms':>12} {'responded ms':>12}  {'process':<10} operation")
    for each in shown[-MAX_LINES:]:
        invoked = f"{(each.invoked - start) / 1e6:.3f}"
        responded = "" if each.responded is None else f"{(each.responded - start) / 1e6:.3f}"
        call = f"{each.phrase} ({each.outcome}){'   <--' if each == failed else ''}"
        lines.append(f"  {invoked:>12} {responded:>12}  {each.process:<10} {call}")
    if len(shown) > MAX_LINES:
        lines.append(f"  and {len(shown) - MAX_LINES} operations before these")
    return "\n".join(lines)


def _is_written(value: str, operations: Iterable[Operation]) -> bool:
    return any(each.kind is not Kind.GET and each.value == value for each in operations)
