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
goes on. The same holds for a command for which the process has no room (`reject`), which becomes a `NoRoom`. Both
are returned before the rest is skipped: a client that reads while it writes learns of it at once, and need not send
what is thrown away. When many large commands come at once, skipping them all takes most of the time there is.

**Parts.** `feed` only keeps bytes; `read` and `read_gets` take a part of them apart, so that the caller can bound
the time that it spends on one connection before it turns to others. What is not read yet is not copied again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

from milena_common.resp.plain_commands import (
    GET,
    MAX_BYTES,
    after_gets,
    argv_of_set,
    commands_of,
    is_incomplete,
    keys_of,
    short_gets,
)

Command = list[bytes]

MAX_ARGUMENTS: Final = 1024 * 1024
MAX_INLINE: Final = 64 * 1024
# What an argument takes beside its bytes: an object, and a place in a list.
ARGUMENT_OVERHEAD: Final = 48
# What Redis takes in one argument (proto-max-bulk-len).
_MAX_SKIPPED: Final = 512 * 1024 * 1024
_SMALL_PIECE = 4096
_MAX_TOGETHER = 1024 * 1024


class ProtocolError(Exception):
    """The stream makes no sense any more; the text is the answer, without "ERR", and the connection must end."""


class TooLong(bytes):
    """The only word of a command that had one of `size` bytes, which is too long."""

    size: int

    def __new__(cls, size: int) -> Self:
        made = super().__new__(cls)
        made.size = size
        return made


class NoRoom(bytes):
    """The only word of a command for whose bytes the process has no room; nothing of it was kept."""


class CommandReader:
    """The commands of one connection. A bulk string may have `most_bulk` bytes, a command `most_bytes` in all."""

    __slots__ = (
        "_arguments",
        "_at",
        "_bulk",
        "_chunks",
        "_dropped",
        "_max_bulk",
        "_max_bytes",
        "_max_plain",
        "_need",
        "_plain",
        "_remaining",
        "_skip",
        "_taken",
        "fed",
        "more",
        "pending",
    )

    def __init__(self, max_bulk: int, max_bytes: int) -> None:
        self._max_bulk = max_bulk
        self._max_bytes = max_bytes
        self._max_plain = min(MAX_BYTES, max_bulk)  # so that nothing among them can be too long
        # The command under way: arguments read, arguments to come, and the length of the one that is being read.
        self._arguments: Command = []
        self._remaining = 0
        self._bulk = -1
        self._taken = 0  # bytes of `_arguments`
        self._skip = 0  # bytes to come of an argument that is not kept
        self._dropped = False  # the rest of the command is skipped; what stands for it has been returned
        self._chunks: list[bytes | bytearray] = []
        self._at = 0  # where in the first chunk the unread bytes begin
        self._need = 0  # there is nothing to be read before so many bytes are there
        self._plain = False  # what is there may be nothing but GETs
        self.fed = 0  # bytes that the latest `feed` brought
        self.pending = 0  # unread bytes in `_chunks`
        self.more = False  # whether `read` may find something in them

    @property
    def held(self) -> int:
        """Bytes that are kept: of a command that is not complete, and of those that are not read yet."""
        return self.pending + self._taken + ARGUMENT_OVERHEAD * len(self._arguments)

    @property
    def needed(self) -> int:
        """As `held`, once the argument is complete whose length has come: what there has to be room for."""
        return self.held + (max(0, self._need - self.pending) if not self._dropped else 0)

    @property
    def pieces(self) -> int:
        """In how many pieces the bytes are kept that could not be read yet."""
        return len(self._chunks)

    def gets(self, data: bytes) -> list[bytes] | None:
        """Return the keys, if `data` is nothing but whole GETs and nothing came before; else None, and nothing is
        read. More than 16 KiB are not looked at: see `read_gets`.
        """
        if self.pending or self._remaining or len(data) > MAX_BYTES or not data.startswith(GET):
            return None
        return keys_of(data)

    def read_gets(self) -> list[bytes] | None:
        """Read up to 16 KiB of what was fed if that is nothing but whole GETs, and return the keys; else None.

        A GET that is not complete stays unread for the next `feed`, and `more` is false then.
        """
        if not self._plain:
            return None
        data, at = self._chunks[0], self._at
        end = after_gets(data, at) if data.startswith(GET, at) else at
        keys = keys_of(bytes(data[at:end])) if end > at else None
        if keys is not None:
            self._went_on(data, end)
        elif is_incomplete(data, at):
            self.more = False
        else:
            self._plain = False
        return keys

    def skip_gets(self) -> int:
        """Read whole GETs of short keys and keep nothing of them; return how many they were."""
        if not self._plain:
            return 0
        data = self._chunks[0]
        number, end = short_gets(data, self._at)
        self._went_on(data, end)
        return number

    def plain_set(self, data: bytes) -> Command | None:
        """The words, if `data` is one whole ``SET key value`` and nothing came before; else None, as `gets`."""
        return None if self.pending or self._remaining else argv_of_set(data, self._max_bulk)

    def feed(self, data: bytes) -> None:
        """Keep `data` to be read; `more` says whether something can be read now."""
        if not self.pending:
            self._chunks.append(data)
            self._plain = not self._remaining
        elif self._plain and self.pending < _SMALL_PIECE:
            self._chunks = [b"".join((self._chunks[0][self._at :], data))]
            self._at = 0
        else:
            self._plain = False
            self._keep(data)
        self.fed = len(data)
        self.pending += self.fed
        self.more = self.pending >= self._need

    def read(self, into: Callable[[Command], object], max_arguments: int = MAX_ARGUMENTS) -> None:
        """Give the next commands to `into`, about `max_arguments` arguments in all; `more`: there may be others.

        Raises ProtocolError, after the commands before it.
        """
        if not self.more:
            return
        self._plain = False
        if len(self._chunks) > 1:
            self._chunks[0] = self._chunks[0][self._at :]
            self._chunks[:] = [b"".join(self._chunks)]
            self._at = 0
        data = self._chunks[0]
        if isinstance(data, bytearray):
            data = self._chunks[0] = bytes(data)
        if not self._remaining:
            commands, at = commands_of(data, self._at, self._max_plain, max_arguments)
            if commands:
                self._went_on(data, at)
                for argv in commands:
                    into(argv)
                return
        at, remaining = self._read(data, into, max_arguments)
        self._went_on(data, at)
        if remaining > 0:  # all was read that could be, and what is left over is not complete
            self.more = False
            if self._chunks:
                self._chunks[0] = data[self._at :]
                self._at = 0

    def reject(self, into: Callable[[Command], object]) -> None:
        """Keep nothing of the command that is not complete: give `into` a `NoRoom` for it, and skip the rest."""
        if not self._remaining or self._dropped:
            return
        self._drop(NoRoom(), into)
        if self._bulk >= 0:
            self._skip = self._bulk + 2
            self._bulk = -1
            self._need = 0
            self.more = bool(self.pending)

    def _went_on(self, data: bytes | bytearray, at: int) -> None:
        """Everything before `at` has been read of `data`, the only chunk."""
        self.pending = len(data) - at
        self._at = at
        if not self.pending:
            self._chunks.clear()
            self._at = 0
            self.more = self._plain = False

    def _keep(self, data: bytes) -> None:
        """Pieces of few bytes are put together: each by itself would take many times its size."""
        chunks = self._chunks
        if len(data) >= _SMALL_PIECE:
            chunks.append(data)
        elif chunks and isinstance(last := chunks[-1], bytearray) and len(last) < _MAX_TOGETHER:
            last += data
        else:
            chunks.append(bytearray(data))

    def _read(self, data: bytes, into: Callable[[Command], object], max_arguments: int) -> tuple[int, int]:
        """Return where the unread bytes begin, and how many of `max_arguments` arguments are left."""
        at = self._at
        size = len(data)
        self._need = 0
        while at < size and max_arguments > 0:
            max_arguments -= 1
            if self._remaining == 0:
                if data[at] != 0x2A:  # *
                    after = self._inline(data, at, into)
                    if after < 0:
                        return at, 1
                    at = after
                    continue
                end = data.find(b"\r\n", at, at + MAX_INLINE)
                if end < 0:
                    if size - at >= MAX_INLINE:
                        raise ProtocolError("Protocol error: too big mbulk count string")
                    return at, 1
                digits = data[at + 1 : end]
                if digits.isdigit() and len(digits) < 11:
                    count = int(digits)
                elif digits[:1] == b"-" and digits[1:].isdigit():
                    count = 0
                else:
                    raise ProtocolError("Protocol error: invalid multibulk length")
                if count > MAX_ARGUMENTS:
                    raise ProtocolError("Protocol error: invalid multibulk length")
                at = end + 2
                self._remaining = count
                continue
            if self._skip:
                skipped = min(self._skip, size - at)
                self._skip -= skipped
                at += skipped
                if not self._skip:
                    self._complete(b"", into)
                continue
            if self._bulk < 0:
                end = data.find(b"\r\n", at, at + MAX_INLINE)
                if end < 0:
                    if size - at >= MAX_INLINE:
                        raise ProtocolError("Protocol error: too big bulk count string")
                    return at, 1
                if data[at] != 0x24:  # $
                    got = chr(data[at]) if 32 <= data[at] < 127 else "?"
                    raise ProtocolError(f"Protocol error: expected '$', got '{got}'")
                digits = data[at + 1 : end]
                if not digits.isdigit() or len(digits) > 10:
                    raise ProtocolError("Protocol error: invalid bulk length")
                if (length := int(digits)) > max(self._max_bulk, _MAX_SKIPPED):
                    raise ProtocolError(f"Protocol error: invalid bulk length {length}, over MAX_VALUE_BYTES")
                if length > self._max_bulk and not self._dropped:
                    self._drop(TooLong(length), into)
                if self._dropped:
                    self._skip = length + 2
                    at = end + 2
                    continue
                if self._taken + length > self._max_bytes:
                    raise ProtocolError(f"Protocol error: a command has more than {self._max_bytes} bytes")
                self._bulk = length
                at = end + 2
            end = at + self._bulk
            if end + 2 > size:
                self._need = self._bulk + 2
                return at, 1
            self._complete(data[at:end], into)
            self._bulk = -1
            at = end + 2
        return at, max_arguments if at < size else 1

    def _drop(self, word: TooLong | NoRoom, into: Callable[[Command], object]) -> None:
        """Let `word` stand for the command that is not complete, of which nothing is kept."""
        self._dropped = True
        self._arguments.clear()
        self._taken = 0
        into([word])

    def _complete(self, argument: bytes, into: Callable[[Command], object]) -> None:
        """An argument is there, and perhaps the command."""
        self._remaining -= 1
        if self._dropped:
            self._dropped = self._remaining > 0
            return
        self._arguments.append(argument)
        self._taken += len(argument)
        if self._remaining == 0:
            into(self._arguments)
            self._arguments = []
            self._taken = 0

    def _inline(self, data: bytes, at: int, into: Callable[[Command], object]) -> int:
        """Where the next command begins, -1 if the line is not complete."""
        end = data.find(b"\n", at, at + MAX_INLINE)
        if end < 0:
            if len(data) - at >= MAX_INLINE:
                raise ProtocolError("Protocol error: too big inline request")
            return -1
        argv = split_inline(data[at:end].removesuffix(b"\r"))
        if argv is None:
            raise ProtocolError("Protocol error: unbalanced quotes in request")
        if argv:
            into(argv)
        return end + 1


_ESCAPES = {0x6E: 10, 0x72: 13, 0x74: 9, 0x62: 8, 0x61: 7}  # \n \r \t \b \a
_HEXADECIMAL = b"0123456789abcdefABCDEF"
_SPACES = b" \t\n\v\f\r\0"


def split_inline(line: bytes) -> Command | None:
    """The words of an inline command, "quoted" ones with escapes and 'quoted' ones without; None if quotes do not
    match. As Redis does it (`sdssplitargs`).
    """
    if b'"' not in line and b"'" not in line:
        return line.translate(None, b"\0").split() if b"\0" in line else line.split()
    argv: Command = []
    at, size = 0, len(line)
    while True:
        while at < size and line[at] in _SPACES:
            at += 1
        if at >= size:
            return argv
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
        argv.append(bytes(word))


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
