"""Pure. Commands out of a stream of bytes: what a server of the Redis protocol reads.

A command is an array of bulk strings, or a line of words (*inline*, for people with telnet). Bytes come in pieces
that end anywhere, so what is incomplete is kept, and read on from where it was.

**Why not hiredis's reader.** It makes room for as many elements as an array announces before the first has come,
so that ``*1000000000`` costs 8 GB and a second of the event loop; and it reads no inline commands. Here nothing is
allocated for what was only announced. `gets` is what makes it fast where it matters: a read that holds nothing
but GETs is taken apart by a few calls over all of them at once.

Limits and their error texts are Redis's (`src/networking.c`: processMultibulkBuffer, processInlineBuffer). The two
bytes that end a bulk string are skipped, and not looked at, as there. A bulk string that is too long here, and not
for Redis, is skipped as well, and its command becomes a `TooLong`: so the client can be told, and the connection
goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

Command = list[bytes]

MOST_ARGUMENTS: Final = 1024 * 1024
MOST_INLINE: Final = 64 * 1024
# What an argument takes beside its bytes: an object, and a place in a list.
ARGUMENT_OVERHEAD: Final = 48
# What Redis takes in one argument (proto-max-bulk-len).
_MOST_SKIPPED: Final = 512 * 1024 * 1024
_SMALL_PIECE = 4096
_MOST_TOGETHER = 1024 * 1024
# A read that holds more than this is no pipeline of GETs, or no command of short words.
_MOST_FOR_GETS = 64 * 1024
_MOST_FOR_ONE = 16 * 1024

_GET = b"*2\r\n$3\r\nGET\r\n$"
_SET = b"*3\r\n$3\r\nSET\r\n$"
_LENGTHS = tuple(b"$%d" % length for length in range(1025))


class ProtocolError(Exception):
    """The stream makes no sense any more; the text is the answer, without "ERR", and the connection must end."""


class TooLong(bytes):
    """The only word of a command that had one of `size` bytes, which is too long."""

    size: int

    def __new__(cls, size: int) -> Self:
        made = super().__new__(cls)
        made.size = size
        return made


class CommandReader:
    """The commands of one connection. A bulk string may have `most_bulk` bytes, a command `most_bytes` in all."""

    __slots__ = (
        "_arguments",
        "_bulk",
        "_chunks",
        "_left",
        "_most_bulk",
        "_most_bytes",
        "_need",
        "_skip",
        "_taken",
        "_too_long",
        "pending",
    )

    def __init__(self, most_bulk: int, most_bytes: int) -> None:
        self._most_bulk = most_bulk
        self._most_bytes = most_bytes
        # The command under way: arguments read, arguments to come, and the length of the one that is being read.
        self._arguments: Command = []
        self._left = 0
        self._bulk = -1
        self._taken = 0  # bytes of `_arguments`
        self._skip = 0  # bytes to come of an argument that is too long
        self._too_long: TooLong | None = None
        self._chunks: list[bytes | bytearray] = []
        self._need = 0  # there is nothing to be read before so many bytes are there
        self.pending = 0  # bytes in `_chunks`

    @property
    def held(self) -> int:
        """Bytes that are kept for a command that is not complete."""
        return self.pending + self._taken + ARGUMENT_OVERHEAD * len(self._arguments)

    @property
    def pieces(self) -> int:
        """In how many pieces the bytes are kept that could not be read yet."""
        return len(self._chunks)

    def gets(self, data: bytes) -> list[bytes] | None:
        """The keys, if `data` is nothing but whole GETs and nothing came before; else None, and nothing is read.

        As fast as it is because it never goes through `data` by itself.
        """
        if self.pending or self._left or not data.startswith(_GET) or len(data) > _MOST_FOR_GETS:
            return None
        tokens = data.split(b"\r\n")
        keys = tokens[4::5]
        number = len(keys)
        if len(tokens) != 5 * number + 1 or tokens[-1]:
            return None
        try:
            if number == 1:
                return keys if tokens[3] == _LENGTHS[len(keys[0])] else None
            if (
                tokens[3::5] == [_LENGTHS[length] for length in map(len, keys)]
                and tokens[0::5].count(b"*2") == tokens[1::5].count(b"$3") == tokens[2::5].count(b"GET") == number
            ):
                return keys
        except IndexError:  # a key that is longer than any
            pass
        return None

    def put(self, data: bytes) -> Command | None:
        """The words, if `data` is one whole ``SET key value`` and nothing came before; else None, as `gets`."""
        if self.pending or self._left or not data.startswith(_SET):
            return None
        end = data.find(b"\r\n", 14)
        digits = data[14:end]
        if end < 0 or not digits.isdigit() or len(digits) > 4:
            return None
        at = end + 2 + int(digits)
        key = data[end + 2 : at]
        end = data.find(b"\r\n", at + 3)
        digits = data[at + 3 : end]
        if end < 0 or data[at : at + 3] != b"\r\n$" or not digits.isdigit() or len(digits) > 10:
            return None
        length = int(digits)
        if length > self._most_bulk or len(data) != end + length + 4:
            return None
        return [b"SET", key, data[end + 2 : -2]]

    def _one(self, data: bytes) -> Command | None:
        """The words, if `data` is one whole command of short words and nothing came before; else None."""
        if self.pending or self._left or len(data) > _MOST_FOR_ONE or data[:1] != b"*":
            return None
        tokens = data.split(b"\r\n")
        words = tokens[2::2]
        if tokens.pop() or tokens[0] != b"*%d" % len(words):
            return None
        try:
            return words if words and tokens[1::2] == [_LENGTHS[length] for length in map(len, words)] else None
        except IndexError:  # a long word
            return None

    def feed(self, data: bytes, into: Callable[[Command], object]) -> None:
        """Give the commands that `data` completes to `into`. Raises ProtocolError, after those before it."""
        words = self._one(data)
        if words is not None:
            into(words)
            return
        if self.pending:
            self._keep(data)
            self.pending += len(data)
            if self.pending < self._need:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
            self.pending = 0
        at = self._read(data, into)
        if at < len(data):
            self._keep(data[at:] if at else data)
            self.pending = len(data) - at

    def _keep(self, data: bytes) -> None:
        """Pieces of few bytes are put together: each by itself would take many times its size."""
        chunks = self._chunks
        if len(data) >= _SMALL_PIECE:
            chunks.append(data)
        elif chunks and isinstance(last := chunks[-1], bytearray) and len(last) < _MOST_TOGETHER:
            last += data
        else:
            chunks.append(bytearray(data))

    def _read(self, data: bytes, into: Callable[[Command], object]) -> int:
        """Where what is incomplete begins."""
        at = 0
        size = len(data)
        self._need = 0
        while at < size:
            if self._left == 0:
                if data[at] != 0x2A:  # *
                    after = self._inline(data, at, into)
                    if after < 0:
                        return at
                    at = after
                    continue
                end = data.find(b"\r\n", at, at + MOST_INLINE)
                if end < 0:
                    if size - at >= MOST_INLINE:
                        raise ProtocolError("Protocol error: too big mbulk count string")
                    return at
                digits = data[at + 1 : end]
                if digits.isdigit() and len(digits) < 11:
                    count = int(digits)
                elif digits[:1] == b"-" and digits[1:].isdigit():
                    count = 0
                else:
                    raise ProtocolError("Protocol error: invalid multibulk length")
                if count > MOST_ARGUMENTS:
                    raise ProtocolError("Protocol error: invalid multibulk length")
                at = end + 2
                self._left = count
                continue
            if self._skip:
                skipped = min(self._skip, size - at)
                self._skip -= skipped
                at += skipped
                if not self._skip:
                    self._complete(b"", into)
                continue
            if self._bulk < 0:
                end = data.find(b"\r\n", at, at + MOST_INLINE)
                if end < 0:
                    if size - at >= MOST_INLINE:
                        raise ProtocolError("Protocol error: too big bulk count string")
                    return at
                if data[at] != 0x24:  # $
                    got = chr(data[at]) if 32 <= data[at] < 127 else "?"
                    raise ProtocolError(f"Protocol error: expected '$', got '{got}'")
                digits = data[at + 1 : end]
                if (
                    not digits.isdigit()
                    or len(digits) > 10
                    or (length := int(digits)) > max(self._most_bulk, _MOST_SKIPPED)
                ):
                    raise ProtocolError("Protocol error: invalid bulk length")
                if length > self._most_bulk:
                    if self._too_long is None:
                        self._too_long = TooLong(length)
                    self._skip = length + 2
                    at = end + 2
                    continue
                if self._taken + length > self._most_bytes:
                    raise ProtocolError(f"Protocol error: a command has more than {self._most_bytes} bytes")
                self._bulk = length
                at = end + 2
            end = at + self._bulk
            if end + 2 > size:
                self._need = self._bulk + 2
                return at
            self._complete(data[at:end], into)
            self._bulk = -1
            at = end + 2
        return at

    def _complete(self, argument: bytes, into: Callable[[Command], object]) -> None:
        """An argument is there, and perhaps the command."""
        self._arguments.append(argument)
        self._taken += len(argument)
        self._left -= 1
        if self._left == 0:
            into(self._arguments if self._too_long is None else [self._too_long])
            self._arguments = []
            self._taken = 0
            self._too_long = None

    def _inline(self, data: bytes, at: int, into: Callable[[Command], object]) -> int:
        """Where the next command begins, -1 if the line is not complete."""
        end = data.find(b"\n", at, at + MOST_INLINE)
        if end < 0:
            if len(data) - at >= MOST_INLINE:
                raise ProtocolError("Protocol error: too big inline request")
            return -1
        words = split_words(data[at:end].removesuffix(b"\r"))
        if words is None:
            raise ProtocolError("Protocol error: unbalanced quotes in request")
        if words:
            into(words)
        return end + 1


_ESCAPES = {0x6E: 10, 0x72: 13, 0x74: 9, 0x62: 8, 0x61: 7}  # \n \r \t \b \a
_HEXADECIMAL = b"0123456789abcdefABCDEF"
_SPACES = b" \t\n\v\f\r\0"


def split_words(line: bytes) -> Command | None:
    """The words of an inline command, "quoted" ones with escapes and 'quoted' ones without; None if quotes do not
    match. As Redis does it (`sdssplitargs`).
    """
    if b'"' not in line and b"'" not in line:
        return line.translate(None, b"\0").split() if b"\0" in line else line.split()
    words: Command = []
    at, size = 0, len(line)
    while True:
        while at < size and line[at] in _SPACES:
            at += 1
        if at >= size:
            return words
        word = bytearray()
        while at < size and line[at] not in _SPACES:
            quote = line[at]
            if quote not in b"\"'":
                word.append(quote)
                at += 1
                continue
            after = _quoted(line, at + 1, quote, word)
            if after < 0 or (after < size and line[after] not in _SPACES):
                return None
            at = after
        words.append(bytes(word))


def _quoted(line: bytes, at: int, quote: int, word: bytearray) -> int:
    """Append what is quoted to `word`; where the text goes on after it, -1 if the quotes are not closed."""
    size = len(line)
    while at < size:
        byte = line[at]
        if byte == quote:
            return at + 1
        if byte == 0x5C and at + 1 < size:  # backslash
            escaped = line[at + 1]
            if quote == 0x27:  # between single quotes only \' is special
                word.append(0x27 if escaped == 0x27 else byte)
                at += 2 if escaped == 0x27 else 1
                continue
            digits = line[at + 2 : at + 4]
            if (
                escaped == 0x78
                and len(digits) == 2
                and all(chr(digit) in "0123456789abcdefABCDEF" for digit in digits)
            ):
                word.append(int(digits, 16))
                at += 4
                continue
            word.append(_ESCAPES.get(escaped, escaped))
            at += 2
            continue
        word.append(byte)
        at += 1
    return -1
