"""Pure. The open connections of the RESP server, and counts over those that have closed.

Connection ids are never used again, so that an id kept by the tracking table cannot come to mean another client.
"""

from __future__ import annotations

from typing import Literal, Protocol

from milena_cache.servers.resp.dispatch.session import Session

Reason = Literal["idle", "login", "output", "protocol", "killed", "certificate"]
REASONS: tuple[Reason, ...] = ("idle", "login", "output", "protocol", "killed", "certificate")


class Client(Protocol):
    """The part of a connection that the server and the commands of other connections use."""

    session: Session
    stalled_at: int  # unsent bytes at the server's last sweep

    def push(self, message: bytes) -> None:
        """Send a message that is not a reply, between two replies."""

    def finish(self) -> None:
        """Begin no more commands, and close when those in flight have their replies."""

    def disconnect(self, reason: Reason) -> None:
        """Close the connection now; unsent bytes are dropped."""

    @property
    def unsent(self) -> int:
        """Return how many bytes wait for the client to read them."""

    @property
    def unread(self) -> int:
        """Return the bytes of commands that have not begun, complete or not, and of the one that is beginning."""

    @property
    def no_room_since(self) -> float:
        """Return since when it waits for room for a command, monotonic seconds; 0 if it does not."""

    def no_room(self) -> None:
        """Reject the command for whose bytes there was no room in time."""

    @property
    def waits(self) -> bool:
        """True if a command of it is in flight."""


class Clients:
    """The open connections, and counts since the start.

    by_id: the open connections by id
    slow: ids of those with more unsent bytes than the system's buffers take, and of those closed but for these
    bytes
    accepted, rejected: connections that were given an id, and those of them over the limit
    deferred: replies that were deferred
    commands, received, sent: commands and bytes of connections that have closed
    disconnects: connections that the server closed, by reason
    """

    def __init__(self) -> None:
        self.by_id: dict[int, Client] = {}
        self.slow: set[int] = set()
        self.accepted = 0
        self.rejected = 0
        self.deferred = 0
        self.commands = 0
        self.received = 0
        self.sent = 0
        self.disconnects = dict.fromkeys(REASONS, 0)

    def __len__(self) -> int:
        return len(self.by_id)

    def next_id(self) -> int:
        """Return the id for a new connection, and count it as accepted."""
        self.accepted += 1
        return self.accepted

    def remove(self, client: Client) -> None:
        """Remove a connection that has closed, and add its counts to the totals."""
        self.slow.discard(client.session.id)
        if self.by_id.pop(client.session.id, None) is not None:
            self.commands += client.session.commands
            self.received += client.session.received
            self.sent += client.session.sent
