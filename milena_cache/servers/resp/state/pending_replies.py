"""Pure. Pending replies: the state of a command between its beginning and its reply, and the bounds of all.

`running` keeps them in the order of their commands. A command counts as in flight until its reply is complete, also
while it is parked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from milena_cache.objects.write_request import Ack
from milena_cache.reads.reader import Reply as ReadReply
from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.state.tracking import Work
from milena_common.build import interpreted
from milena_common.resp.command_ordering import Access
from milena_common.resp.encoding import OK, Pieces, Raw, encode

_OK = (OK,)
Reply = tuple[bytes, ...]

# Commands of one connection that may be in flight at the same time, and bytes of their arguments.
MAX_PENDING = 1024
MAX_PENDING_BYTES = 32 * 2**20

# From this size in bytes on a value is written by itself, and not copied together with other replies.
LARGE = 32 * 1024


@interpreted
class Large(tuple[bytes, ...]):
    """A reply with a large value among its parts."""

    __slots__ = ()


def encoded(result: Any, protocol: int) -> Reply:
    """Return what a command's result is on the wire: of a read the value that it found, of a write OK."""
    if type(result) is bytes and len(result) >= LARGE:
        return Large((b"$%d\r\n" % len(result), result, b"\r\n"))
    if type(result) is ReadReply:
        return encoded(result.entry.value, protocol)
    if type(result) is Ack:
        return _OK
    if isinstance(result, Raw):
        return Large((result,)) if len(result) >= LARGE else (result,)
    # Not as one: the union of the two would be made anew for each reply.
    if isinstance(result, Pieces):
        return result
    if isinstance(result, Large):
        return result
    return (encode(result, protocol),)


class PendingReply:
    """A place in the order of replies.

    reply: the encoded reply; None until it is complete
    command: the command; `name`: its name, or its subcommand's
    argv: its arguments, the name included
    started: when it began, monotonic seconds; of a parked command, when its bytes were read
    touched: its access and its cache keys, by which it excludes conflicting commands
    deferred: the number of its deferred reply; 0 if it is not deferred
    muted: True if the client gets no reply (CLIENT REPLY)
    forwarded: True if it was sent to other nodes
    repeated: True if it was carried out again, or waits to be, because its slot was handed over
    work: its tracking, see `Tracking.begin`; None without tracking
    """

    __slots__ = (
        "argv",
        "command",
        "deferred",
        "forwarded",
        "muted",
        "name",
        "repeated",
        "reply",
        "started",
        "touched",
        "work",
    )

    def __init__(
        self, reply: Reply | None, command: Command[Any], name: str, argv: list[bytes], started: float
    ) -> None:
        self.reply = reply
        self.command = command
        self.name = name
        self.argv = argv
        self.started = started
        self.touched: tuple[Access, list[bytes]] = ("none", [])
        self.deferred = 0
        self.muted = False
        self.forwarded = False
        self.repeated = False
        self.work: Work | None = None


class CommandsInFlight:
    """The commands of one connection that have begun and have no reply yet.

    number: how many; `bytes`: those of their arguments
    full: True if no other command may begin
    """

    __slots__ = ("bytes", "full", "number")

    def __init__(self) -> None:
        self.number = 0
        self.full = False
        self.bytes = 0

    def begin(self, argv: list[bytes]) -> None:
        self._count(1, argv)

    def end(self, argv: list[bytes]) -> None:
        self._count(-1, argv)

    def begin_many(self, argvs: Sequence[list[bytes]]) -> None:
        self._add(len(argvs), sum([len(word) for argv in argvs for word in argv]))

    def end_many(self, argvs: Sequence[list[bytes]]) -> None:
        self._add(-len(argvs), -sum([len(word) for argv in argvs for word in argv]))

    def _count(self, one: int, argv: list[bytes]) -> None:
        self._add(one, one * sum(map(len, argv)))

    def _add(self, number: int, size: int) -> None:
        self.number += number
        self.bytes += size
        self.full = self.number >= MAX_PENDING or self.bytes >= MAX_PENDING_BYTES
