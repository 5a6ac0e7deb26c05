"""Pure. Decide whether the operations of one key are linearizable: a register with delete and compare-and-swap.

The algorithm is the search of Wing and Gong ("Testing and verifying concurrent objects", 1993) in Lowe's form of
just-in-time linearization with memoisation ("Testing for linearizability", 2017), over sets of configurations as
in Knossos: the events are passed in the order of time, and a call is put into the order of linearization only when
a response needs it. A configuration is the value of the register, the calls in flight that have taken effect, and
what they have left open. If no configuration is left at a response, then the events up to it are the shortest
prefix that is not linearizable.

Three reductions keep the sets small; none changes the result:

- A call that only observes (get, a failed condition) takes effect in a configuration as soon as it can: it changes
  no value, so waiting gains nothing.
- A configuration is dropped if another one of the same value and the same finished writes has used fewer writes of
  unknown outcome, and waits for no further observation: all that may follow the first may follow the second.
- A write of unknown outcome is tried only where its value is observed, or is the one that a condition needs: if it
  is overwritten before that, the same order without it explains as much. After the last call that names its value,
  the value is only one that is none of those that are named, as all such values are. So writes that time out cost
  nothing, unless something depends on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from tests.faults.linearizability.operations import CONDITIONAL, Kind, Operation, Outcome


class Verdict(Enum):
    """What is known of a history. UNDECIDED: a bound was exceeded first."""

    LINEARIZABLE = "linearizable"
    VIOLATION = "not linearizable"
    UNDECIDED = "undecided"


class Bounds(NamedTuple):
    """Limits for one key. `work`: steps of the search, about a microsecond each; `configurations`: held at once."""

    work: int = 20_000_000
    configurations: int = 200_000


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on the operations of one key.

    `failed`: the operation at whose response no order was left, None if there is none; `values`: what the key could
    hold at that time, None being no object. `work`: steps that were taken.
    """

    verdict: Verdict
    work: int
    failed: Operation | None = None
    values: frozenset[str | None] = frozenset()


class _OverBound(Exception):
    """A bound was exceeded."""


class _Phase(IntEnum):
    """Order of events of the same time: calls that meet in a point of time overlap."""

    INVOKED = 0
    RESPONDED = 1
    LAST_CHANCE = 2
    UNNAMED = 3
    USELESS = 4


ABSENT = 0
ANY = -1
# Any value that no later call names.
UNNAMED = -2
# A configuration: the value, and the writes in flight that have taken effect; and for each the ways to it, as masks
# of writes of unknown outcome that were used and of observers that have not yet seen what they returned.
_Table = dict[tuple[int, int], list[int]]


# What is equal for writes that may take each other's place: condition, value after it, end of its chance, process.
_Effect = tuple[int, int, int | None, str]


@dataclass(slots=True, eq=False)
class _Call:
    """An operation, with values as numbers.

    `condition`: the value that a write needs, or ANY. `after`: the value after it. `sees`: the value that a get
    returned; `misses`: the value that a failed condition named. `bit`: its place in the masks while it is in
    flight. `bars`: the writes of unknown outcome that take no effect after this one. `session`: the process, if it
    has writes that bar others.
    """

    operation: Operation
    writes: bool
    unknown: bool
    condition: int = ANY
    after: int = ABSENT
    sees: int | None = None
    misses: int | None = None
    bit: int = 0
    bars: int = 0
    session: str = ""

    @property
    def effect(self) -> _Effect:
        return self.condition, self.after, self.operation.responded, self.session


def check(operations: Iterable[Operation], bounds: Bounds = BOUNDS) -> Result:
    """Return the verdict on the operations of one key, which begins without an object."""
    return _Search(list(operations), bounds).run()


class _Search:
    def __init__(self, operations: Sequence[Operation], bounds: Bounds) -> None:
        self._bounds = bounds
        self._work = 0
        self._names: dict[int, str | None] = {ABSENT: None, UNNAMED: "a value that is not read"}
        self._numbers: dict[str | None, int] = {None: ABSENT}
        calls = [self._call(each) for each in operations if _counts(each)]
        in_order = {call.operation.process for call in calls if call.operation.in_order}
        for call in calls:
            if call.operation.process in in_order:
                call.session = call.operation.process
        self._events = _events(calls)
        # How many writes may still make a value the one that the key holds.
        self._writers = Counter(
            call.after for _, phase, call in self._events if call.writes and phase is _Phase.INVOKED
        )
        self._table: _Table = {(ABSENT, 0): [0]}
        self._free: list[int] = []
        self._bits = 0
        # Calls in flight: writes; unknown ones by value and effect; observers and conditions as masks by value.
        self._writes: dict[_Call, None] = {}
        self._unknown: dict[int, dict[_Effect, dict[_Call, None]]] = {}
        self._seers: dict[int, int] = {}
        self._missers: dict[int, int] = {}
        self._all_missers = 0
        self._needed: dict[int, int] = {}
        self._all_unknown: dict[_Call, None] = {}
        self._unknown_conditional: dict[_Call, None] = {}

    def run(self) -> Result:
        try:
            for _, phase, call in self._events:
                if phase is _Phase.INVOKED:
                    self._invoked(call)
                elif phase is _Phase.RESPONDED:
                    before = self._table
                    self._table = self._with(call)
                    if not self._table:
                        values = frozenset(self._names[value] for value, _ in before)
                        return Result(Verdict.VIOLATION, self._work, call.operation, values)
                    barred = [each for each in self._all_unknown if each.bit & call.bars]
                    for each in (call, *barred):
                        self._finished(each)
                    if self._unknown_conditional:
                        self._finish_useless()
                elif phase is _Phase.LAST_CHANCE:
                    # A call that is still in flight may have seen this write, and no later event will ask for it.
                    if call.bit:
                        self._merge(self._with(call))
                        self._finished(call)
                elif phase is _Phase.UNNAMED:
                    if call.bit:
                        self._unname(call)
                elif call.bit:
                    self._finished(call)
        except _OverBound:
            return Result(Verdict.UNDECIDED, self._work)
        return Result(Verdict.LINEARIZABLE, self._work)

    def _call(self, operation: Operation) -> _Call:
        kind, outcome = operation.kind, operation.outcome
        if kind is Kind.GET:
            return _Call(operation, writes=False, unknown=False, sees=self._number(operation.value))
        condition = self._number(operation.expected) if kind in CONDITIONAL else ANY
        if outcome is Outcome.CONDITION_FAILED:
            return _Call(operation, writes=False, unknown=False, misses=condition)
        unknown = outcome is Outcome.UNKNOWN
        return _Call(
            operation, writes=True, unknown=unknown, condition=condition, after=self._number(operation.value)
        )

    def _number(self, value: str | None) -> int:
        if value not in self._numbers:
            number = self._numbers[value] = len(self._numbers)
            self._names[number] = value
        return self._numbers[value]

    # ---- calls in flight

    def _invoked(self, call: _Call) -> None:
        if not self._free:
            self._free.append(1 << self._bits)
            self._bits += 1
        bit = call.bit = self._free.pop()
        if call.writes:
            if call.operation.in_order:
                call.bars = sum(
                    each.bit for each in self._all_unknown if _is_earlier(each.operation, call.operation)
                )
            if call.condition != ANY:
                _set(self._needed, call.condition, bit)
                if call.unknown:
                    self._unknown_conditional[call] = None
            if call.unknown:
                self._all_unknown[call] = None
                self._unknown.setdefault(call.after, {}).setdefault(call.effect, {})[call] = None
            else:
                self._writes[call] = None
            return
        if call.sees is not None:
            _set(self._seers, call.sees, bit)
        if call.misses is not None:
            _set(self._missers, call.misses, bit)
            self._all_missers |= bit
        for (value, _), ways in self._table.items():
            if not self._satisfied(value) & bit:
                ways[:] = [way | bit for way in ways]
                self._step(len(ways))

    def _finished(self, call: _Call) -> None:
        """Take `call` out of what is in flight, and its bit out of the configurations."""
        bit, call.bit = call.bit, 0
        self._free.append(bit)
        if not call.writes:
            # Every configuration that is left has seen it: the bit is nowhere.
            if call.sees is not None:
                _clear(self._seers, call.sees, bit)
            if call.misses is not None:
                _clear(self._missers, call.misses, bit)
                self._all_missers &= ~bit
            return
        if call.condition != ANY:
            _clear(self._needed, call.condition, bit)
            self._unknown_conditional.pop(call, None)
        self._writers[call.after] -= 1
        if call.unknown:
            self._remove_unknown(call)
            del self._all_unknown[call]
            for write in (*self._writes, *self._all_unknown):
                write.bars &= ~bit
        else:
            del self._writes[call]
        table: _Table = {}
        for (value, done), ways in self._table.items():
            for way in ways:
                self._add(table, value, done & ~bit, way & ~bit)
        self._table = table

    def _finish_useless(self) -> None:
        """Finish writes of unknown outcome that can take effect no more: their condition will not hold again."""
        values = {value for value, _ in self._table}
        while useless := [
            call
            for call in self._unknown_conditional
            if call.condition not in values and self._writers[call.condition] <= 0
        ]:
            for call in useless:
                self._finished(call)

    def _remove_unknown(self, call: _Call) -> None:
        effects = self._unknown[call.after]
        alike = effects[call.effect]
        del alike[call]
        if not alike:
            del effects[call.effect]
            if not effects:
                del self._unknown[call.after]

    def _unname(self, call: _Call) -> None:
        """Let the value of `call`, which no call in flight or later names, be one with all such values."""
        self._remove_unknown(call)
        self._writers[call.after] -= 1
        value, call.after = call.after, UNNAMED
        self._writers[UNNAMED] += 1
        self._unknown.setdefault(UNNAMED, {}).setdefault(call.effect, {})[call] = None
        table: _Table = {}
        for (each, done), ways in self._table.items():
            for way in ways:
                self._add(table, UNNAMED if each == value else each, done, way)
        self._table = table

    def _satisfied(self, value: int) -> int:
        """Return the observers in flight that return what they did if the key holds `value`."""
        return self._seers.get(value, 0) | (self._all_missers & ~self._missers.get(value, 0))

    # ---- configurations

    def _with(self, call: _Call) -> _Table:
        """Return the configurations in which `call` has taken effect; it is the last that does where it had not."""
        found: _Table = {}
        seen: _Table = {}
        frontier: list[tuple[int, int, int]] = []
        bit = call.bit
        for (value, done), ways in self._table.items():
            for way in ways:
                has_happened = done & bit or (call.unknown and way & bit) if call.writes else not way & bit
                if has_happened:
                    self._add(found, value, done, way)
                elif self._add(seen, value, done, way):
                    frontier.append((value, done, way))
        while frontier:
            value, done, way = frontier.pop()
            for write in self._possible(call, value, done, way):
                self._step()
                after = write.after
                new_way = way & ~self._satisfied(after)
                new_done = done
                if write.unknown:
                    new_way |= write.bit
                else:
                    new_done |= write.bit
                new_way |= write.bars
                if write is call or not (call.writes or new_way & bit):
                    self._add(found, after, new_done, new_way)
                elif self._add(seen, after, new_done, new_way):
                    frontier.append((after, new_done, new_way))
        return found

    def _possible(self, call: _Call, value: int, done: int, way: int) -> Iterator[_Call]:
        """Yield the writes that may take effect next before `call` does, or as `call`.

        Those of unknown outcome only if an observer or a condition in flight has use for the value; of several with
        the same effect one.
        """
        for write in self._writes:
            if not done & write.bit and write.condition in (ANY, value):
                yield write
        for after in self._unknown if self._all_missers else self._useful(call):
            if way & self._satisfied(after) or after in self._needed or (call.unknown and after == call.after):
                for (condition, *_), alike in self._unknown[after].items():
                    if condition in (ANY, value):
                        for write in alike:
                            if not way & write.bit:
                                yield write
                                break

    def _useful(self, call: _Call) -> list[int]:
        named = {*self._seers, *self._needed}
        if call.unknown:
            named.add(call.after)
        return [after for after in named if after in self._unknown]

    def _merge(self, table: _Table) -> None:
        for (value, done), ways in table.items():
            for way in ways:
                self._add(self._table, value, done, way)

    def _add(self, table: _Table, value: int, done: int, way: int) -> bool:
        """Return True if the configuration is new, and no better one is in `table`."""
        self._step()
        ways = table.get((value, done))
        if ways is None:
            if len(table) >= self._bounds.configurations:
                raise _OverBound
            table[value, done] = [way]
            return True
        for other in ways:
            if other & way == other:
                return False
        ways[:] = [other for other in ways if way & other != way]
        if len(ways) >= self._bounds.configurations:
            raise _OverBound
        ways.append(way)
        return True

    def _step(self, steps: int = 1) -> None:
        self._work += steps
        if self._work > self._bounds.work:
            raise _OverBound


def _counts(operation: Operation) -> bool:
    """Return True if `operation` says anything: a get without a reply and a write without an effect do not."""
    if operation.kind is Kind.GET:
        return operation.outcome is Outcome.OK
    return operation.outcome is not Outcome.FAILED


def _events(calls: Sequence[_Call]) -> list[tuple[int, _Phase, _Call]]:
    """Return the events in the order of time, without the unknown writes that nothing can see."""
    named, missed = _last_uses(calls)
    events = []
    for call in calls:
        invoked, responded = call.operation.invoked, call.operation.responded
        if call.unknown:
            last_named = named.get(call.after, -1)
            useful = max(last_named, missed)
            if useful < invoked:
                continue
            if responded is not None and responded <= useful:
                events.append((responded, _Phase.LAST_CHANCE, call))
            else:
                events.append((useful, _Phase.USELESS, call))
            if last_named < invoked:
                call.after = UNNAMED
            elif last_named < events[-1][0]:
                events.append((last_named, _Phase.UNNAMED, call))
        else:
            events.append((_responded(call), _Phase.RESPONDED, call))
        events.append((invoked, _Phase.INVOKED, call))
    events.sort(key=lambda event: event[:2])
    return events


def _last_uses(calls: Sequence[_Call]) -> tuple[dict[int, int], int]:
    """Return for each value the last time of a call that matters and names it, and that of failed conditions.

    A write of unknown outcome that needs a value matters as long as there is a use for what it writes.
    """
    named: dict[int, int] = {}
    missed = max((_responded(call) for call in calls if call.misses is not None), default=-1)
    for call in calls:
        if not call.unknown:
            for value in (call.sees, call.misses, call.condition):
                if value is not None:
                    named[value] = max(named.get(value, -1), _responded(call))
    conditional = [call for call in calls if call.unknown and call.condition != ANY]
    changed = True
    while changed:
        changed = False
        for call in conditional:
            until = max(named.get(call.after, -1), missed)
            if call.operation.responded is not None:
                until = min(until, call.operation.responded)
            if until >= call.operation.invoked and until > named.get(call.condition, -1):
                named[call.condition] = until
                changed = True
    return named, missed


def _is_earlier(one: Operation, other: Operation) -> bool:
    """Return True if `one` was invoked by the same process before `other`."""
    return one.process == other.process and one.invoked < other.invoked


def _set(masks: dict[int, int], value: int, bit: int) -> None:
    masks[value] = masks.get(value, 0) | bit


def _clear(masks: dict[int, int], value: int, bit: int) -> None:
    """Clear the bit; values without any are not kept."""
    masks[value] &= ~bit
    if not masks[value]:
        del masks[value]


def _responded(call: _Call) -> int:
    assert call.operation.responded is not None
    return call.operation.responded
