"""Pure. Values as bits: GETBIT, SETBIT, BITCOUNT, BITPOS, BITOP.

The first bit is the highest one of the first byte.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import and_, or_, xor
from typing import Final

from milena_cache.servers.resp.decisions.values import Values
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer

_NO_OFFSET = "ERR bit offset is not an integer or out of range"
_NO_BIT = "ERR bit is not an integer or out of range"
_OPERATIONS: Final[dict[bytes, Callable[[int, int], int]]] = {b"AND": and_, b"OR": or_, b"XOR": xor}


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


def bitpos(values: Values, argv: list[bytes]) -> int:
    bit = integer(argv[2])
    if bit not in (0, 1):
        raise CommandError("ERR The bit argument must be 1 or 0.")
    data = values.value_of(argv[1])
    if data is None:
        return -1 if bit else 0  # whatever the other arguments are, as in Redis
    if len(argv) > 6:
        raise CommandError(SYNTAX)
    start = integer(argv[3]) if len(argv) > 3 else 0
    in_bits = len(argv) == 6 and argv[5].upper() == b"BIT"
    if len(argv) == 6 and argv[5].upper() not in (b"BIT", b"BYTE"):
        raise CommandError(SYNTAX)
    size = 8 * len(data) if in_bits else len(data)
    end = integer(argv[4]) if len(argv) > 4 else size - 1
    start = max(0, start + size if start < 0 else start)
    end = min(size - 1, max(0, end + size if end < 0 else end))
    if start > end:
        return -1
    first, last = (start, end) if in_bits else (8 * start, 8 * end + 7)
    every = (1 << (last - first + 1)) - 1
    number = int.from_bytes(data[first // 8 : last // 8 + 1], "big") >> (7 - last % 8) & every
    if not bit:
        number ^= every
    if number:
        return last + 1 - number.bit_length()
    # Behind a value are zeros, unless the end to look at is given.
    return -1 if bit or len(argv) > 4 else 8 * len(data)


def bitop(values: Values, argv: list[bytes]) -> int:
    operation, destination, sources = argv[1].upper(), argv[2], argv[3:]
    if operation not in _OPERATIONS and operation != b"NOT":
        raise CommandError(SYNTAX)
    if operation == b"NOT" and len(sources) != 1:
        raise CommandError("ERR BITOP NOT must be called with a single source key.")
    data = [values.value_of(key) or b"" for key in sources]
    size = max(map(len, data))
    if size == 0:
        values.delete(destination)
        return 0
    numbers = [int.from_bytes(each.ljust(size, b"\0"), "big") for each in data]
    result = numbers[0] ^ ((1 << 8 * size) - 1) if operation == b"NOT" else reduce(_OPERATIONS[operation], numbers)
    values.assign(destination, result.to_bytes(size, "big"))
    return size
