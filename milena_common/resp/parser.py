"""Pure. Parses the commands that a server of the Redis protocol receives.

A command is an array of bulk strings, or a line of words (*inline*, for telnet). Bytes arrive in pieces with
arbitrary boundaries, so incomplete commands are kept, and parsing continues where it stopped.

**Why not hiredis's reader.** It allocates as many elements as an array announces before the first one arrives, so
that ``*1000000000`` costs 8 GB and a second of the event loop; and it parses no inline commands. Here nothing is
allocated for announced elements. `gets` and `sets` are the fast paths: GETs, and SETs without options, are parsed
by a few calls over all of them at once.

Limits and their error texts are Redis's (`src/networking.c`: processMultibulkBuffer, processInlineBuffer). As
there, the two bytes that end a bulk string are skipped without a check. A bulk string that is too long for Milena,
but not for Redis, is skipped, and its command becomes a `TooLong`: so the client gets an error, and the connection
continues. A command for which the process has no room (`reject`) becomes a `NoRoom` in the same way. Both are
returned before the rest is skipped: a client that reads while it writes gets the error at once, and need not send
data that would be discarded. When many large commands arrive together, skipping them all would take most of the
processor time.

**Parts.** `feed` only keeps bytes; `read`, `read_gets` and `read_sets` parse a part of them, so that the caller can
bound the time that it spends on one connection before it turns to others. Unparsed bytes are not copied again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

from milena_common.build import interpreted
from milena_common.resp.plain_commands import (
    GET,
    LOWER_GET,
    LOWER_SET,
    MAX_BYTES,
    MULTI,
    SET,
    SETS_BYTES,
    after_gets,
    argv_of_set,
    command_of,
    commands_of,
    is_incomplete,
    keys_of,
    sets_of,
    short_gets,
)

Command = list[bytes]

MAX_ARGUMENTS: Final = 1024 * 1024
MAX_INLINE: Final = 64 * 1024
# The memory of an argument besides its bytes: an object, and a list element.
ARGUMENT_OVERHEAD: Final = 48
# Redis's limit for one argument (proto-max-bulk-len).
_MAX_SKIPPED: Final = 512 * 1024 * 1024
_SMALL_PIECE = 4096
_MAX_TOGETHER = 1024 * 1024


class ProtocolError(Exception):
    """The stream cannot be parsed further; the text is the reply, without "ERR", and the connection must end."""


@interpreted
class TooLong(bytes):
    """The only argument of a command that had an argument of `size` bytes, which is too long."""

    size: int

    def __new__(cls, size: int) -> Self:
        made = bytes.__new__(cls)
        made.size = size
        return made


@interpreted
class NoRoom(bytes):
    """The only argument of a command for whose bytes the process has no room; nothing of it was kept."""


class CommandReader:
    """Parses the commands of one connection: bulk strings up to `max_bulk` bytes, commands up to `max_bytes`."""

    __slots__ = (
        "_arguments",
        "_at",
        "_bulk",
        "_chunks",
        "_dropped",
        "_max_bulk",
        "_max_bytes",
        "_max_plain",
        "_max_sets",
        "_need",
        "_plain",
        "_remaining",
        "_skip",
        "_skippable",
        "_taken",
        "fed",
        "more",
        "pending",
    )

    def __init__(self, max_bulk: int, max_bytes: int) -> None:
        self._max_bulk = max_bulk
        self._max_bytes = max_bytes
        self._max_plain = min(MAX_BYTES, max_bulk)  # so that nothing among them can be too long
        self._max_sets = min(SETS_BYTES, max_bulk)  # the same for SETs, and for commands of a bounded number
        # The incomplete command: arguments parsed, arguments to come, and the length of the current one.
        self._arguments: Command = []
        self._remaining = 0
        self._bulk = -1
        self._taken = 0  # bytes of `_arguments`
        self._skip = 0  # bytes to come of an argument that is discarded
        self._dropped = False  # the rest of the command is skipped; its placeholder has been returned
        self._chunks: list[bytes | bytearray] = []
        self._at = 0  # offset of the unread bytes in the first chunk
        self._need = 0  # nothing can be parsed before so many bytes have arrived
        self._plain = False  # GETs may be next
        self._skippable = False  # so far, the latest chunk has had nothing but GETs
        self.fed = 0  # bytes that the latest `feed` brought
        self.pending = 0  # unread bytes in `_chunks`
        self.more = False  # True if `read` may find a command in them

    @property
    def held(self) -> int:
        """Return the number of bytes kept: of the incomplete command, and not parsed yet."""
        return self.pending + self._taken + ARGUMENT_OVERHEAD * len(self._arguments)

    @property
    def needed(self) -> int:
        """Return what `held` will be once the announced argument is complete: the room that is necessary."""
        return self.held + (max(0, self._need - self.pending) if not self._dropped else 0)

    @property
    def pieces(self) -> int:
        """Return the number of pieces in which the unparsed bytes are kept."""
        return len(self._chunks)

    def gets(self, data: bytes) -> list[bytes] | None:
        """Return the keys, if `data` is nothing but whole GETs and no bytes are pending; else None.

        With None nothing was consumed. More than 16 KiB are not parsed: see `read_gets`.
        """
        if self.pending or self._remaining or len(data) > MAX_BYTES:
            return None
        if not data.startswith(GET) and not data.startswith(LOWER_GET):
            return None
        return keys_of(data)

    def read_gets(self) -> list[bytes] | None:
        """Parse up to 16 KiB of the fed bytes if they are nothing but whole GETs, and return the keys; else None.

        An incomplete GET stays unparsed until the next `feed`, and `more` is False then.
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
        elif not data.startswith(SET, at):  # behind SETs there may be GETs again
            self._plain = False
        return keys

    def sets(self, data: bytes) -> tuple[list[bytes], list[bytes]] | None:
        """Return keys and values of the SETs without options with which `data` begins; None if there are none.

        None are returned either if bytes are pending, and then nothing was consumed. Otherwise the rest was fed. Of
        names in lower case only a single SET is recognised.
        """
        if self.pending or self._remaining:
            return None
        if not data.startswith(SET):
            lower = data.startswith(LOWER_SET) and len(data) <= self._max_sets
            only = argv_of_set(SET + data[len(SET) :], self._max_bulk) if lower else None
            return None if only is None else ([only[1]], [only[2]])
        argv = argv_of_set(data, self._max_bulk)
        if argv is not None:
            return [argv[1]], [argv[2]]
        keys, values, end = sets_of(data, 0, self._max_sets)
        if not keys:
            return None
        if end < len(data):
            self.feed(data)
            self._went_on(data, end)
            self._skippable = False
        return keys, values

    def read_sets(self) -> tuple[list[bytes], list[bytes]] | None:
        """Return keys and values of the SETs without options that are next in the fed bytes, about 64 KiB of them.

        None if another command is next, or an incomplete or large SET.
        """
        if self._remaining or len(self._chunks) != 1:
            return None
        data = self._chunks[0]
        if type(data) is not bytes or not data.startswith(SET, self._at):
            return None
        keys, values, end = sets_of(data, self._at, self._max_sets)
        if not keys:
            return None
        self._went_on(data, end)
        self._skippable = False
        return keys, values

    def skip_gets(self) -> int:
        """Skip whole GETs of short keys, and return their number; 0 behind another command of the same bytes."""
        if not (self._plain and self._skippable):
            return 0
        data = self._chunks[0]
        number, end = short_gets(data, self._at)
        self._went_on(data, end)
        return number

    def one(self, data: bytes) -> Command | None:
        """Return the argv, if `data` is one whole command and no bytes are pending; else None.

        With None nothing was consumed. A long command is recognised only if it is ``SET key value``, and one of
        binary arguments only if they have no line ends.
        """
        if self.pending or self._remaining or (len(data) > len(MULTI) and data.startswith(MULTI)):
            return None
        return argv_of_set(data, self._max_bulk) or command_of(data, self._max_plain)

    def feed(self, data: bytes) -> None:
        """Keep `data` for parsing; `more` is True if a command may be parsed now."""
        if not self.pending:
            self._chunks.append(data)
            self._plain = self._skippable = not self._remaining
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
        """Pass the next commands to `into`, about `max_arguments` arguments in all; `more`: there may be others.

        Raises ProtocolError, after the commands before it.
        """
        if not self.more:
            return
        self._plain = self._skippable = False
        if len(self._chunks) > 1:
            self._chunks[0] = self._chunks[0][self._at :]
            self._chunks[:] = [b"".join(self._chunks)]
            self._at = 0
        data = self._chunks[0]
        if isinstance(data, bytearray):
            data = self._chunks[0] = bytes(data)
        if not self._remaining:
            if data.startswith(MULTI, self._at):
                # By itself: the SETs behind it are read by `read_sets`.
                self._went_on(data, self._at + len(MULTI))
                into([b"MULTI"])
                return
            commands, at = commands_of(data, self._at, self._max_sets, max_arguments)
            if commands:
                self._went_on(data, at)
                for argv in commands:
                    into(argv)
                return
        else:
            # Only the rest of the command that is being parsed: behind it the faster ways apply again.
            max_arguments = min(max_arguments, self._remaining)
        resumed = self._remaining > 0
        at, remaining = self._read(data, into, max_arguments)
        self._went_on(data, at)
        if remaining > 0:  # the rest is an incomplete command
            self.more = False
            if self._chunks:
                self._chunks[0] = data[self._at :]
                self._at = 0
        else:
            self._plain = resumed and not self._remaining and self.more

    def reject(self, into: Callable[[Command], object]) -> None:
        """Discard the incomplete command: pass a `NoRoom` for it to `into`, and skip its rest."""
        if not self._remaining or self._dropped:
            return
        self._drop(NoRoom(), into)
        if self._bulk >= 0:
            self._skip = self._bulk + 2
            self._bulk = -1
            self._need = 0
            self.more = bool(self.pending)

    def _went_on(self, data: bytes | bytearray, at: int) -> None:
        """Record that `data`, the only chunk, has been parsed up to `at`."""
        self.pending = len(data) - at
        self._at = at
        if not self.pending:
            self._chunks.clear()
            self._at = 0
            self.more = self._plain = False

    def _keep(self, data: bytes) -> None:
        """Append `data` to the chunks, joining small pieces: each by itself would take many times its size."""
        chunks = self._chunks
        if len(data) >= _SMALL_PIECE:
            chunks.append(data)
        elif chunks and isinstance(last := chunks[-1], bytearray) and len(last) < _MAX_TOGETHER:
            last += data
        else:
            chunks.append(bytearray(data))

    def _read(self, data: bytes, into: Callable[[Command], object], max_arguments: int) -> tuple[int, int]:
        """Return the offset of the unparsed bytes, and how many of `max_arguments` arguments are left."""
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
        """Pass `word` to `into` in place of the incomplete command, which is discarded."""
        self._dropped = True
        self._arguments.clear()
        self._taken = 0
        into([word])

    def _complete(self, argument: bytes, into: Callable[[Command], object]) -> None:
        """Add an argument; pass the command to `into` if that completes it."""
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
        """Parse an inline command; return the offset of the next command, -1 if the line is incomplete."""
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
    """Return the argv of an inline command; None if quotes do not match.

    "Double-quoted" words have escapes, 'single-quoted' ones none, as in Redis (`sdssplitargs`).
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
    """Append the quoted text to `word`; return the offset after it, -1 if the quotes are not closed."""
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
