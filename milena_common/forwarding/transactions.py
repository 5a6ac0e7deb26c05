"""Pure. Transactions on keys of another process: one command that carries the queue and what was watched.

The owner of the keys carries it out as its own EXEC: nothing comes in between, and it is one commit. A process that
forwards it keeps the queue from MULTI to EXEC, and nothing at the owner, so that there is nothing to clean up when
a client, a node or a connection is lost, and a transaction can never be half carried out.

- `MILENA.WATCH key [key …]` returns what the keys are, in a form that only nodes read.
- `MILENA.EXEC key number [key watched …] [number word …] …` has how many keys are watched, and each with what it
  was; then each command, with the number of its words. The first key is one of those, all of which have one slot.
  It returns the replies of the commands, or null if a watched key has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from milena_common.forwarding.routing import Forwarded
from milena_common.resp.redis_replies import CommandError, integer
from milena_common.resp.replies import end_of

# Of one transaction: commands, and bytes of their arguments, which count as bytes in flight until its end.
MAX_COMMANDS: Final = 4096
MAX_BYTES: Final = 16 * 2**20
# Keys that one connection may watch.
MAX_WATCHED: Final = 256

WATCH: Final = Forwarded("milena.watch", -2, "read", last=-1, operation="other")
EXEC: Final = Forwarded("milena.exec", -3, "modify", operation="other")
ABORTED: Final = "EXECABORT Transaction discarded because of previous errors."
NESTED: Final = "ERR MULTI calls can not be nested"
NOT_BEGUN: Final = "ERR EXEC without MULTI"
NOT_BEGUN_DISCARD: Final = "ERR DISCARD without MULTI"
WATCH_INSIDE: Final = "ERR WATCH inside MULTI is not allowed"

# Commands on keys that cannot be in a transaction.
NOT_QUEUED: Final = frozenset(("memory|usage", "object|freq", "object|idletime", "milena.refresh"))
# Options of SET that are about one write by itself.
_OF_ONE_WRITE: Final = frozenset((b"DURABILITY", b"RECEIPT", b"WITHIN"))
_NULLS: Final = (b"_\r\n", b"*-1\r\n", b"$-1\r\n")

C = TypeVar("C")


class Queued(NamedTuple, Generic[C]):
    """A command of a transaction, a subcommand if there is one, and its arguments."""

    command: C
    argv: list[bytes]


class Transaction(Generic[C]):
    """What was queued since MULTI.

    bytes: of the arguments of its commands
    failed: True if a command was rejected, for which EXEC will fail
    key: the first key of its commands, with whose slot the others are compared; empty without one
    """

    __slots__ = ("_commands", "_keys", "_set", "_values", "bytes", "failed", "key")

    def __init__(self) -> None:
        self._commands: list[Queued[C]] = []
        # The SETs without options behind those in `_commands`; `_set` describes SET.
        self._set: C | None = None
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        self.bytes = 0
        self.failed = False
        self.key = b""

    @property
    def number(self) -> int:
        """Return how many commands were queued."""
        return len(self._commands) + len(self._keys)

    @property
    def commands(self) -> list[Queued[C]]:
        """Return the commands, in their order."""
        if self._set is not None and self._keys:
            for key, value in zip(self._keys, self._values, strict=True):
                self._commands.append(Queued(self._set, [b"SET", key, value]))
            self._keys, self._values = [], []
        return self._commands

    @property
    def sets(self) -> tuple[list[bytes], list[bytes]] | None:
        """Return keys and values if all commands came by `queue_sets`, and there is one; else None."""
        return (self._keys, self._values) if self._keys and not self._commands else None

    def queue(self, command: C, argv: list[bytes]) -> None:
        """Add a command. Raises CommandError if the transaction would be too large."""
        size = sum([len(word) for word in argv])
        if self.number >= MAX_COMMANDS or self.bytes + size > MAX_BYTES:
            raise CommandError(
                f"ERR a transaction has at most {MAX_COMMANDS} commands and {MAX_BYTES} bytes of arguments; "
                "nothing of it will be done"
            )
        self.commands.append(Queued(command, argv))
        self.bytes += size

    def queue_sets(self, command: C, keys: list[bytes], values: list[bytes]) -> bool:
        """Add SETs without options; `command` describes SET. False, and none was added, where `queue` would raise.

        It does what `queue` does for each of them, without an object for each.
        """
        size = len(b"SET") * len(keys) + sum([len(key) for key in keys]) + sum([len(value) for value in values])
        if self.number + len(keys) > MAX_COMMANDS or self.bytes + size > MAX_BYTES:
            return False
        self._set = command
        self._keys += keys
        self._values += values
        self.bytes += size
        return True


def check_watched(number: int) -> None:
    """Raise CommandError if a connection would watch too many keys."""
    if number > MAX_WATCHED:
        raise CommandError(f"ERR a connection can watch at most {MAX_WATCHED} keys")


def check_options(name: str, argv: Sequence[bytes]) -> None:
    """Raise CommandError for a command with options that cannot be in a transaction."""
    if name == "set" and any(word.upper() in _OF_ONE_WRITE for word in argv[3:]):
        raise CommandError(
            "ERR 'set' with DURABILITY, RECEIPT or WITHIN is not available in a transaction; nothing of it will be "
            "done"
        )


def not_available(name: str) -> CommandError:
    return CommandError(f"ERR '{name}' is not available in a transaction; nothing of it will be done")


def encode_exec(key: bytes, watched: Mapping[bytes, bytes], commands: Iterable[Sequence[bytes]]) -> list[bytes]:
    """Return the arguments of MILENA.EXEC, its name included."""
    argv = [b"MILENA.EXEC", key, b"%d" % len(watched)]
    for pair in watched.items():
        argv += pair
    for each in commands:
        argv.append(b"%d" % len(each))
        argv += each
    return argv


def decode_exec(argv: Sequence[bytes]) -> tuple[dict[bytes, bytes], list[list[bytes]]]:
    """Return what `encode_exec` was given: the watched keys, and the commands. Raises CommandError."""
    number = integer(argv[2])
    if not 0 <= number <= MAX_WATCHED or 3 + 2 * number > len(argv):
        raise _malformed()
    at = 3 + 2 * number
    watched = dict(zip(argv[3:at:2], argv[4:at:2], strict=True))
    commands: list[list[bytes]] = []
    while at < len(argv):
        size = integer(argv[at])
        at += 1
        if not 0 < size <= len(argv) - at or len(commands) >= MAX_COMMANDS:
            raise _malformed()
        commands.append(list(argv[at : at + size]))
        at += size
    return watched, commands


def _malformed() -> CommandError:
    return CommandError("ERR malformed transaction; nothing was done")


def decode_replies(reply: bytes) -> list[Any] | None:
    """Return the encoded replies in that to MILENA.EXEC; None if a watched key has changed.

    Raises ValueError for a reply that is malformed.
    """
    if reply in _NULLS:
        return None
    if reply[:1] != b"*":
        raise ValueError("the reply to a transaction is no array")
    at = reply.index(b"\r\n") + 2
    replies: list[Any] = []
    while at < len(reply):
        end = end_of(reply, at)
        replies.append(reply[at:end])
        at = end
    return replies


def decode_watched(reply: bytes, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return what the keys of MILENA.WATCH are, from its encoded reply. Raises ValueError."""
    found = decode_replies(reply) or []
    return {key: each[each.index(b"\r\n") + 2 : -2] for key, each in zip(keys, found, strict=True)}
