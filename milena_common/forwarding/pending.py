"""Pure. Commands that have begun and have no reply yet: their places in the order of a client's replies.

`Request` is the command for one key, which a node replies to. `Gathered` is a command on several keys, whose parts
are requests. All that finishes passes the reply to its client once, in RESP3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from milena_common.forwarding.routing import Forwarded, merge
from milena_common.resp.command_ordering import Access

# Replies to reads whose values find no room.
NO_ROOM: Final = (
    b"-BUSY retry-after-ms=500 no room for the reply: those that this connection has not read, or all in flight, "
    b"are too many bytes; read them, or request fewer keys at once\r\n"
)
# Never changed.
_NO_KEYS: list[bytes] = []


class Client(Protocol):
    """The part of a connection that is used here."""

    def finished(self, pending: Pending, reply: bytes) -> None:
        """Handle the reply to a command."""

    def deferred(self, pending: Pending) -> None:
        """Handle that the reply will come later than those to commands behind it."""

    def keep(self, size: int) -> bool:
        """Count `size` bytes of a reply that is not complete; False if there is no room for them."""


class Pending:
    """A place in the order of replies.

    client: whose command it is
    operation: under which it is counted; `name`: the command's
    started: when it began, monotonic seconds
    size: bytes of its arguments; `count`: requests that it takes
    access, keys: by which it excludes conflicting commands
    reply: what the client gets; None until it is known
    number: of its deferred reply; 0 if it is not deferred
    placed: False once -DEFERRED was sent in its place, and the reply has to come as a push
    muted: True if the client gets no reply (CLIENT REPLY)
    """

    __slots__ = (
        "access",
        "client",
        "count",
        "keys",
        "muted",
        "name",
        "number",
        "operation",
        "placed",
        "reply",
        "size",
        "started",
    )

    def __init__(self, client: Client, name: str, operation: str, started: float, size: int) -> None:
        self.client = client
        self.name = name
        self.operation = operation
        self.started = started
        self.size = size
        self.count = 1
        self.access: Access = "none"
        self.keys = _NO_KEYS
        self.reply: bytes | None = None
        self.number = 0
        self.placed = True
        self.muted = False

    def replied(self, reply: bytes) -> None:
        """Finish with `reply`, in RESP3."""
        self.client.finished(self, reply)

    def defer(self) -> None:
        """Notice that the reply will take long."""
        self.client.deferred(self)


class Request(Pending):
    """A command for the owner of one key.

    key: by which the owner is found; `data`: what is sent
    more_keys: the others of a command that is not split, in the same slot
    writes: True if it may change something
    ring: the ring by which it was sent; None: not yet
    resent: True if it has been sent to another node after its first one was lost
    run_here: carries it out in this process, where that may serve the key by now (`Topology.take`); else not set
    """

    __slots__ = ("data", "key", "more_keys", "resent", "ring", "run_here", "writes")

    run_here: Callable[[], None]

    def __init__(
        self, client: Client, command: Forwarded, key: bytes, data: bytes, started: float, size: int
    ) -> None:
        # Not by the class above: most requests are made here, for each hit.
        self.client = client
        self.name = command.name
        self.operation = command.operation
        self.started = started
        self.size = size
        self.count = 1
        self.access = "none"
        self.keys = _NO_KEYS
        self.reply = None
        self.number = 0
        self.placed = True
        self.muted = False
        self.key = key
        self.more_keys = _NO_KEYS
        self.data = data
        self.writes = command.access != "read"
        self.ring: Any = None
        self.resent = False


class Part(Request):
    """The request for one of the keys of `whole`: the part at `index`."""

    __slots__ = ("index", "whole")

    def __init__(self, whole: Gathered, index: int, command: Forwarded, key: bytes, data: bytes) -> None:
        super().__init__(whole.client, command, key, data, whole.started, len(data))
        self.whole = whole
        self.index = index

    def replied(self, reply: bytes) -> None:
        self.whole.part_replied(self.index, reply)

    def defer(self) -> None:
        self.whole.defer()


class Gathered(Pending):
    """A command on several keys, whose reply is merged from those of `number_of_parts` parts.

    max_bytes: of its reply; a greater one becomes an error
    parts: those that have not begun
    kept: bytes of replies to its parts
    """

    __slots__ = ("_command", "_failed", "_max_bytes", "_missing", "_protocol", "_replies", "kept", "parts")

    def __init__(
        self,
        client: Client,
        command: Forwarded,
        started: float,
        size: int,
        number_of_parts: int,
        protocol: int,
        max_bytes: int,
    ) -> None:
        super().__init__(client, command.name, command.operation, started, size)
        self._command = command
        self._protocol = protocol
        self._max_bytes = max_bytes
        self._replies: list[bytes] = [b""] * number_of_parts
        self._missing = self.count = number_of_parts
        self._failed = b""
        self.kept = 0
        self.parts: list[Part] = []

    def defer(self) -> None:
        if not self.number:
            self.client.deferred(self)

    def part_replied(self, index: int, reply: bytes) -> None:
        """Take the reply to the part at `index`; the last one finishes the command."""
        self._missing -= 1
        if not self._failed:
            self.kept += len(reply)
            self._replies[index] = reply
            if not self.client.keep(len(reply)):
                self._failed = NO_ROOM
            elif self.kept > self._max_bytes and self._command.access == "read":
                self._failed = (
                    b"-ERR the reply has more than %d bytes; request fewer keys at once\r\n" % self._max_bytes
                )
            if self._failed:
                # The whole would not be sent, so what has come is not kept until the rest has.
                self._replies = []
        if not self._missing:
            self.replied(self._failed or merge(self._command, self._replies, self._protocol))
            self._replies = []
