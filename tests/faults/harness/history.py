"""Pure. What was written under each key and what of it was acknowledged; what a read may return, and what is wrong.

Every key has one writer, which begins a write only when the one before has ended. So at any moment the key holds
the last write that was acknowledged, or one of those after it whose outcome is unknown: such a one may have
happened or not. A read may return what the key held at some time while the read was in flight. And what a read has
returned stays: a later one may not return an older write.

Values carry their key, the number of their write, and bytes that follow from both: one that is mixed up, cut short
or of another key is known by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from hashlib import sha256
from typing import NamedTuple


class Kind(Enum):
    """What can be wrong with a value that was returned."""

    LOST = "an acknowledged write is lost"
    INVENTED = "a value that was not written"
    BACK = "a deleted key is back"


class Write(NamedTuple):
    """`value` None is a delete."""

    key: str
    number: int
    value: bytes | None


class Wrong(NamedTuple):
    """`observed` and `allowed` are numbers of writes, as text; `where`: which reader."""

    kind: Kind
    key: str
    where: str
    observed: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.key}: {self.where} returns {self.observed}, and not {self.allowed}"


class _Key:
    """`states`: after each event, the numbers of the writes that the key may hold; 0 is that it never existed."""

    def __init__(self) -> None:
        self.deletes = {0}
        self.last = 0
        self.acknowledged = 0
        self.states: list[frozenset[int]] = [frozenset({0})]


class History:
    """Writes by key. `large_bytes`: how large one value in 64 is."""

    def __init__(self, keys: Iterable[str], large_bytes: int = 100_000) -> None:
        self.attempted = 0
        self.acknowledged = 0
        self.reads = 0
        self.wrong: list[Wrong] = []
        self._large_bytes = large_bytes
        self._keys = {key: _Key() for key in keys}

    @property
    def keys(self) -> list[str]:
        return list(self._keys)

    def value(self, key: str, number: int) -> bytes:
        """What the write of that number says."""
        head = f"{key} {number} ".encode()
        seed = sha256(head).digest()
        size = self._large_bytes if seed[0] % 64 == 0 else 64 + 8 * seed[1]
        return head + (seed * (size // len(seed) + 1))[:size]

    # ---- writing

    def begin(self, key: str, *, delete: bool) -> Write:
        """A write that is about to be tried; from now on it may be returned."""
        one = self._keys[key]
        one.last += 1
        if delete:
            one.deletes.add(one.last)
        one.states.append(one.states[-1] | {one.last})
        self.attempted += 1
        return Write(key, one.last, None if delete else self.value(key, one.last))

    def acknowledge(self, write: Write) -> None:
        """It was acknowledged: from now on nothing older may be returned."""
        one = self._keys[write.key]
        one.states.append(frozenset({write.number}))
        one.acknowledged = write.number
        self.acknowledged += 1

    # ---- reading

    def mark(self, key: str) -> int:
        """Return the mark that `observed` needs, before a read begins."""
        return len(self._keys[key].states) - 1

    def observed(self, key: str, value: bytes | None, mark: int, where: str = "a read") -> bool:
        """Whether that may be returned by a read that began at `mark`; if not, it is among `wrong`."""
        self.reads += 1
        one = self._keys[key]
        allowed = frozenset[int]().union(*one.states[mark:])
        numbers = one.deletes if value is None else self._numbers(key, value)
        found = allowed & numbers
        if found:
            latest = one.states[-1]
            if found & latest:
                one.states.append(frozenset(number for number in latest if number >= min(found & latest)))
            return True
        if value is not None and not numbers:
            kind = Kind.INVENTED
        elif value is not None and one.acknowledged in one.deletes:
            kind = Kind.BACK
        else:
            kind = Kind.LOST
        says = "nothing" if value is None else f"write {min(numbers)}" if numbers else f"{value[:60]!r}"
        self.wrong.append(Wrong(kind, key, where, says, self._names(one, allowed)))
        return False

    def _numbers(self, key: str, value: bytes) -> set[int]:
        """The write that `value` is from: one, or none."""
        name, _, rest = value.partition(b" ")
        digits = rest.partition(b" ")[0]
        if name != key.encode() or not digits.isdigit():
            return set()
        number = int(digits)
        one = self._keys[key]
        ours = 0 < number <= one.last and number not in one.deletes and value == self.value(key, number)
        return {number} if ours else set()

    @staticmethod
    def _names(one: _Key, numbers: Iterable[int]) -> str:
        return ", ".join(f"delete {n}" if n in one.deletes else f"write {n}" for n in sorted(numbers))

    def count(self, kind: Kind) -> int:
        return sum(wrong.kind is kind for wrong in self.wrong)

    def verdict(self) -> str:
        """A line of figures, and one for each of the first things that are wrong."""
        found = ", ".join(f"{self.count(kind)} × {kind.value}" for kind in Kind)
        lines = [f"{self.attempted} writes tried, {self.acknowledged} acknowledged, {self.reads} reads: {found}"]
        return "\n".join([*lines, *(f"  {wrong}" for wrong in self.wrong[:20])])
