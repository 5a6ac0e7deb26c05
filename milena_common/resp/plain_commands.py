"""Pure. Plain commands, recognized in a stream by a few calls over all the bytes at once.

`CommandReader` calls these functions before it parses bytes argument by argument, which costs several times as
much. Input that is not exactly repeated ``*2 $3 GET $n key``, or repeated ``*3 $3 SET $n key $n value``, or
commands of short arguments without line ends in them, is left to the general parser.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Final

from milena_common.api.keys import MAX_KEY_BYTES

GET: Final = b"*2\r\n$3\r\nGET\r\n$"
# As ioredis and go-redis send it.
LOWER_GET: Final = b"*2\r\n$3\r\nget\r\n$"
# Bytes that are parsed at once: about 0.3 ms of work.
MAX_BYTES: Final = 16 * 1024
# Bytes of GETs that are skipped at once: about 1 ms of work.
SKIPPED_BYTES: Final = 256 * 1024

# Bytes of SETs that are parsed at once, and their maximum number: less than 1 ms of work.
SETS_BYTES: Final = 64 * 1024
MAX_SETS: Final = 128

_NEXT = b"\r\n" + GET
SET: Final = b"*3\r\n$3\r\nSET\r\n"
LOWER_SET: Final = b"*3\r\n$3\r\nset\r\n"
MULTI: Final = b"*1\r\n$5\r\nMULTI\r\n"
_DOLLAR: Final = ord("$")
# The headers of arguments up to the length of a key.
LENGTHS: Final = tuple(b"$%d" % length for length in range(MAX_KEY_BYTES + 1))
# Lines of the longest command, which may begin with the last line that is allowed for a beginning.
_MORE_LINES = 1 + 2 * 1024
# The headers of commands of up to 1024 arguments, with the number of arguments.
COUNTS: Final = {b"*%d" % count: count for count in range(1, 1025)}


def keys_of(data: bytes) -> list[bytes] | None:
    """Return the keys if `data` is nothing but whole GETs of keys up to 1024 bytes.

    `data` begins with GET, or LOWER_GET.
    """
    tokens = data.split(b"\r\n")
    keys = tokens[4::5]
    number = len(keys)
    if len(tokens) != 5 * number + 1 or tokens[-1]:
        return None
    try:
        if number == 1:
            return keys if tokens[3] == LENGTHS[len(keys[0])] else None
        names = tokens[2::5]
        if (
            tokens[3::5] == [LENGTHS[length] for length in map(len, keys)]
            and tokens[0::5].count(b"*2") == tokens[1::5].count(b"$3") == number
            and (names.count(b"GET") == number or names.count(b"get") == number)
        ):
            return keys
    except IndexError:  # a key beyond the maximum length
        pass
    return None


def after_gets(data: bytes | bytearray, at: int) -> int:
    """Return the end of the GETs that begin at `at`, within MAX_BYTES; `at` if none is whole.

    The result is a guess that `keys_of` verifies: a key may contain what looks like the beginning of another GET.
    """
    last = max(at, data.rfind(_NEXT, at, at + MAX_BYTES) + 2)
    return max(last, _after_get(data, last))


def _short_gets() -> re.Pattern[bytes]:
    """Return the pattern of whole GETs of keys up to 64 bytes without a carriage return."""
    lengths = sorted(b"%d" % length for length in range(65))
    # Grouped by the first digit, so that few alternatives are tried.
    alternatives = b"|".join(
        b"%b(?:%b)" % (digit, b"|".join(rb"%b\r\n[^\r]{%b}" % (length[1:], length) for length in those))
        for digit, those in groupby(lengths, lambda length: length[:1])
    )
    return re.compile(rb"(?:%b(?:%b)\r\n)*+" % (re.escape(GET), alternatives))


_SHORT_GETS = _short_gets()


def short_gets(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Return the number of whole GETs of short keys that begin at `at`, in at most SKIPPED_BYTES, and their end.

    Their keys are not extracted, which takes a quarter of the time of `keys_of`.
    """
    match = _SHORT_GETS.match(data, at, at + SKIPPED_BYTES)
    end = match.end() if match else at
    return data.count(GET, at, end), end  # a key without a carriage return cannot contain it


def is_incomplete(data: bytes | bytearray, at: int) -> bool:
    """True if `data` from `at` on is the beginning of one incomplete GET."""
    size = len(data)
    if size - at <= len(GET):
        return GET.startswith(data[at:])
    if not data.startswith(GET, at):
        return False
    start = at + len(GET)
    end = data.find(b"\r\n", start, start + 6)
    if end < 0:
        # At most four digits, and perhaps the first byte of the line end.
        digits = data[start : start + 6].removesuffix(b"\r")
        return size <= start + 5 and len(digits) <= 4 and digits.isdigit()
    digits = data[start:end]
    return digits.isdigit() and size < end + 4 + int(digits)


def _after_get(data: bytes | bytearray, at: int) -> int:
    """Return the end of the GET that begins at `at`, -1 if there is none or it is incomplete."""
    if not data.startswith(GET, at):
        return -1
    start = at + len(GET)
    end = data.find(b"\r\n", start, start + 6)
    if end < 0:
        return -1
    digits = data[start:end]
    if not digits.isdigit():
        return -1
    after = end + 4 + int(digits)
    return after if after <= len(data) else -1


def commands_of(data: bytes, at: int, max_bytes: int, max_arguments: int) -> tuple[list[list[bytes]], int]:
    """Return the whole commands of short arguments that begin at `at`, and the offset of what follows them.

    At most `max_bytes` are parsed, and no command is begun after `max_arguments` lines.
    """
    # Lines behind those that may be used are not split: they are parsed next time.
    tokens = data[at : at + max_bytes].split(b"\r\n", max_arguments + _MORE_LINES)
    last = len(tokens) - 1  # the text after the last line end
    commands = []
    line = 0
    try:
        while line < min(last, max_arguments):
            count = COUNTS[tokens[line]]
            end = line + 1 + 2 * count
            if end > last:
                break
            argv = tokens[line + 2 : end : 2]
            if tokens[line + 1 : end : 2] != [LENGTHS[length] for length in map(len, argv)]:
                break
            commands.append(argv)
            line = end
    except (IndexError, KeyError):  # a long argument, or many of them, or not a command
        pass
    return commands, at + sum(map(len, tokens[:line])) + 2 * line


def command_of(data: bytes, max_bytes: int) -> list[bytes] | None:
    """Return the argv if `data` is one whole command of short arguments, at most `max_bytes`; else None."""
    if len(data) > max_bytes:
        return None
    tokens = data.split(b"\r\n")
    argv = tokens[2:-1:2]
    try:
        whole = len(tokens) == 2 * COUNTS[tokens[0]] + 2 and not tokens[-1]
        return argv if whole and tokens[1:-1:2] == [LENGTHS[length] for length in map(len, argv)] else None
    except (IndexError, KeyError):
        return None


def sets_of(data: bytes, at: int, max_bytes: int) -> tuple[list[bytes], list[bytes], int]:
    """Return keys and values of the whole SETs from `at` on, where one begins, and the offset of what follows them.

    At most MAX_SETS are parsed, in at most `max_bytes`. Most SETs have keys and values as long as the one before,
    so the bytes around them are compared with those of the one before, and parsed only where they differ.
    """
    keys: list[bytes] = []
    values: list[bytes] = []
    limit = min(len(data), at + max_bytes)
    key_at, key_bytes, value_at, value_bytes = _after_heads(data, at, limit)
    head = data[at:key_at]
    between = data[key_at + key_bytes : value_at]
    while value_at > at:
        keys.append(data[key_at : key_at + key_bytes])
        values.append(data[value_at : value_at + value_bytes])
        at = value_at + value_bytes + 2
        if len(keys) == MAX_SETS:
            break
        key_at = at + len(head)
        value_at = key_at + key_bytes + len(between)
        if (
            value_at + value_bytes + 2 > limit
            or data[at:key_at] != head
            or data[key_at + key_bytes : value_at] != between
        ):
            key_at, key_bytes, value_at, value_bytes = _after_heads(data, at, limit)
            head = data[at:key_at]
            between = data[key_at + key_bytes : value_at]
    return keys, values, at


def _after_heads(data: bytes, at: int, limit: int) -> tuple[int, int, int, int]:
    """Return offset and length of key and value of the SET that begins at `at` and ends before `limit`.

    (`at`, 0, `at`, 0) if no such SET begins there, with a key up to 1024 bytes.
    """
    nothing = at, 0, at, 0
    if not data.startswith(SET, at):
        return nothing
    key_at, key_bytes = _after_length(data, at + len(SET), 4)
    if not 0 <= key_bytes <= MAX_KEY_BYTES:
        return nothing
    value_at, value_bytes = _after_length(data, key_at + key_bytes + 2, 10)
    if value_bytes < 0 or value_at + value_bytes + 2 > limit:
        return nothing
    return key_at, key_bytes, value_at, value_bytes


def _after_length(data: bytes, at: int, max_digits: int) -> tuple[int, int]:
    """Return the offset behind the header ``$length`` at `at`, and the length; (`at`, -1) if there is none."""
    end = data.find(b"\r\n", at, at + max_digits + 3)
    if end < at + 2 or data[at] != _DOLLAR:
        return at, -1
    digits = data[at + 1 : end]
    return (end + 2, int(digits)) if digits.isdigit() else (at, -1)


def argv_of_set(data: bytes, max_bytes: int) -> list[bytes] | None:
    """Return the argv if `data` is one whole ``SET key value`` with a value up to `max_bytes`, else None."""
    size = len(data)
    key_at, key_bytes, value_at, value_bytes = _after_heads(data, 0, size)
    if not value_at or value_at + value_bytes + 2 != size or value_bytes > max_bytes or data[-2:] != b"\r\n":
        return None
    return [b"SET", data[key_at : key_at + key_bytes], data[value_at:-2]]
