"""Pure. BITFIELD: integers of 1 to 64 bits within a value, read, replaced and incremented.

The first bit of a field is its highest one. A field behind the end of the value is 0.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from milena_cache.servers.resp.decisions.values import TOO_LONG, Values
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer

_NO_TYPE: Final = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."
_NO_OFFSET: Final = "ERR bit offset is not an integer or out of range"
_NO_OVERFLOW: Final = "ERR Invalid OVERFLOW type specified"
_OVERFLOWS: Final = frozenset((b"WRAP", b"SAT", b"FAIL"))
# Bytes of a value in Redis, behind which no field may lie.
_MAX_BYTES: Final = 2**29


class _Operation(NamedTuple):
    """One operation. `number`: the argument of SET and INCRBY; `overflow`: WRAP, SAT or FAIL."""

    name: bytes
    signed: bool
    bits: int
    offset: int
    number: int
    overflow: bytes

    @property
    def size(self) -> int:
        """Return the bytes that a value must have for the field."""
        return (self.offset + self.bits + 7) // 8

    def value_in(self, data: bytes | bytearray) -> int:
        first = self.offset // 8
        part = bytes(data[first : self.size])
        whole = int.from_bytes(part.ljust(self.size - first, b"\0"), "big")
        value = whole >> (8 * self.size - self.offset - self.bits) & ((1 << self.bits) - 1)
        return value - (1 << self.bits) if self.signed and value >> (self.bits - 1) else value

    def replace_in(self, data: bytearray, value: int) -> None:
        first = self.offset // 8
        shift = 8 * self.size - self.offset - self.bits
        mask = ((1 << self.bits) - 1) << shift
        whole = int.from_bytes(data[first : self.size], "big")
        whole = whole & ~mask | value << shift & mask
        data[first : self.size] = whole.to_bytes(self.size - first, "big")

    def bounded(self, value: int) -> int | None:
        """Return what is stored for a value that may not fit into the field; None: nothing."""
        high = (1 << (self.bits - self.signed)) - 1
        low = -high - 1 if self.signed else 0
        if low <= value <= high:
            return value
        if self.overflow == b"FAIL":
            return None
        if self.overflow == b"SAT":
            # As in Redis, in whose 64 bits the distance of a very low number from the highest one is negative.
            is_high = value > high or (self.name == b"SET" and high - value >= 2**63)
            return high if is_high else low
        value &= (1 << self.bits) - 1
        return value - (1 << self.bits) if self.signed and value > high else value


def bitfield(values: Values, argv: list[bytes]) -> list[int | None]:
    """Carry out the operations in their order, and return the reply to each, None for one that would overflow.

    Operations that change nothing are no write, as in Redis: a client that watches the key is not concerned.
    """
    operations = _parsed(argv)
    data = values.value_of(argv[1]) or b""
    writes = [each for each in operations if each.name != b"GET"]
    if not writes:
        return [each.value_in(data) for each in operations]
    size = max(each.size for each in writes)
    if size > values.max_bytes:
        raise CommandError(TOO_LONG)
    changed = bytearray(data.ljust(size, b"\0"))
    replies: list[int | None] = []
    written = len(changed) > len(data)
    for each in operations:
        before = each.value_in(changed)
        if each.name == b"GET":
            replies.append(before)
            continue
        # As an unsigned field sees it, a negative number to set is a great one.
        number = each.number if each.signed or each.name == b"INCRBY" else each.number & (2**64 - 1)
        after = each.bounded(number if each.name == b"SET" else before + number)
        if after is not None and after != before:
            each.replace_in(changed, after)
            written = True
        replies.append(None if after is None else before if each.name == b"SET" else after)
    if written:
        values.update(argv[1], bytes(changed))
    return replies


def bitfield_ro(values: Values, argv: list[bytes]) -> list[int]:
    """Carry out operations that only read. Raises CommandError for others."""
    operations = _parsed(argv)
    if any(each.name != b"GET" for each in operations):
        raise CommandError("ERR BITFIELD_RO only supports the GET subcommand")
    data = values.value_of(argv[1]) or b""
    return [each.value_in(data) for each in operations]


def _parsed(argv: list[bytes]) -> list[_Operation]:
    operations: list[_Operation] = []
    overflow = b"WRAP"
    at = 2
    while at < len(argv):
        name = argv[at].upper()
        left = len(argv) - at - 1
        if name == b"OVERFLOW" and left >= 1:
            overflow = argv[at + 1].upper()
            if overflow not in _OVERFLOWS:
                raise CommandError(_NO_OVERFLOW)
            at += 2
            continue
        arguments = 2 if name == b"GET" else 3
        if name not in (b"GET", b"SET", b"INCRBY") or left < arguments:
            raise CommandError(SYNTAX)
        signed, bits = _type(argv[at + 1])
        offset = _offset(argv[at + 2], bits)
        number = integer(argv[at + 3]) if arguments == 3 else 0
        operations.append(_Operation(name, signed, bits, offset, number, overflow))
        at += 1 + arguments
    return operations


def _type(word: bytes) -> tuple[bool, int]:
    """Return whether a type is signed, and its bits."""
    kind, digits = word[:1], word[1:]
    if kind not in (b"i", b"u") or not digits.isdigit() or len(digits) > 2 or digits.startswith(b"0"):
        raise CommandError(_NO_TYPE)
    bits = int(digits)
    if bits > (64 if kind == b"i" else 63):
        raise CommandError(_NO_TYPE)
    return kind == b"i", bits


def _offset(word: bytes, bits: int) -> int:
    times = word.startswith(b"#")
    offset = integer(word[1:] if times else word, _NO_OFFSET) * (bits if times else 1)
    if offset < 0 or (offset + bits - 1) // 8 >= _MAX_BYTES:
        raise CommandError(_NO_OFFSET)
    return offset
