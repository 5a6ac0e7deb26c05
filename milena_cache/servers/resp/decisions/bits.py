"""Pure. Values as bits: GETBIT, SETBIT, BITCOUNT. The first bit is the highest one of the first byte."""

from __future__ import annotations

from milena_cache.servers.resp.decisions.values import Values
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer

_NO_OFFSET = "ERR bit offset is not an integer or out of range"
_NO_BIT = "ERR bit is not an integer or out of range"


def _offset(word: bytes, max_bytes: int) -> int:
    offset = integer(word, _NO_OFFSET)
    if not 0 <= offset < 8 * max_bytes:
        raise CommandError(_NO_OFFSET)
    return offset


def getbit(values: Values, argv: list[bytes]) -> int:
    # Redis's limit, not that of values: a bit behind the end is 0.
    offset = _offset(argv[2], 2**29)
    data = values.value_of(argv[1]) or b""
    return _bit(data, offset)


def _bit(data: bytes | bytearray, offset: int) -> int:
    place, bit = divmod(offset, 8)
    return data[place] >> (7 - bit) & 1 if place < len(data) else 0


def setbit(values: Values, argv: list[bytes]) -> int:
    offset = _offset(argv[2], values.max_bytes)
    on = integer(argv[3], _NO_BIT)
    if on not in (0, 1):
        raise CommandError(_NO_BIT)
    data = values.value_of(argv[1])
    before = _bit(data or b"", offset)
    place, bit = divmod(offset, 8)
    if data is not None and place < len(data) and before == on:
        return before
    changed = bytearray(data or b"")
    changed.extend(bytes(max(0, place + 1 - len(changed))))
    mask = 0x80 >> bit
    changed[place] = changed[place] | mask if on else changed[place] & ~mask
    values.update(argv[1], bytes(changed))
    return before


def bitcount(values: Values, argv: list[bytes]) -> int:
    data = values.value_of(argv[1])
    if data is None:
        return 0  # whatever the other arguments are, as in Redis
    if len(argv) == 2:
        return int.from_bytes(data, "big").bit_count()
    if len(argv) not in (4, 5):
        raise CommandError(SYNTAX)
    start, end = integer(argv[2]), integer(argv[3])
    if start < 0 and end < 0 and start > end:
        return 0
    in_bits = False
    if len(argv) == 5:
        unit = argv[4].upper()
        if unit not in (b"BIT", b"BYTE"):
            raise CommandError(SYNTAX)
        in_bits = unit == b"BIT"
    size = 8 * len(data) if in_bits else len(data)
    start = max(0, start + size if start < 0 else start)
    end = min(size - 1, max(0, end + size if end < 0 else end))
    if start > end:
        return 0
    if not in_bits:
        return int.from_bytes(data[start : end + 1], "big").bit_count()
    number = int.from_bytes(data[start // 8 : end // 8 + 1], "big")
    number >>= 7 - end % 8
    return (number & ((1 << (end - start + 1)) - 1)).bit_count()
