"""Pure. The connections of the Redis door: who they are, and what became of those that ended."""

from __future__ import annotations

from typing import Literal, Protocol

from milena_cache.servers.resp.dispatch.session import Session

Reason = Literal["idle", "output", "protocol", "killed"]
REASONS: tuple[Reason, ...] = ("idle", "output", "protocol", "killed")


class Client(Protocol):
    """A connection, as others see it."""

    session: Session
    stalled_at: int  # unsent bytes when the door last looked

    def push(self, message: bytes) -> None:
        """Send a message that is no answer, now."""

    def finish(self) -> None:
        """Begin nothing any more, and end when what was begun has been answered."""

    def disconnect(self, reason: Reason) -> None:
        """End the connection; what was not sent yet is not sent any more."""

    @property
    def unsent(self) -> int:
        """Bytes that wait for the client to read them."""

    @property
    def unread(self) -> int:
        """Bytes of commands that have not begun, complete or not; and of the one that is beginning."""

    @property
    def no_room_since(self) -> float:
        """Since when it waits for room for a command, in monotonic seconds; 0 if it does not."""

    def no_room(self) -> None:
        """Refuse the command for whose bytes there was no room in time."""

    @property
    def waits(self) -> bool:
        """Whether a command of it has no answer yet."""


class Clients:
    """The open connections by id, and counts since the start."""

    def __init__(self) -> None:
        self.by_id: dict[int, Client] = {}
        # Those with more unsent than the system's buffers take, and those that have ended but for what is unsent.
        self.slow: set[int] = set()
        self.accepted = 0
        self.rejected = 0
        self.deferred = 0
        self.commands = 0  # of connections that have ended, as are these:
        self.received = 0  # bytes
        self.sent = 0
        self.disconnects = dict.fromkeys(REASONS, 0)

    def __len__(self) -> int:
        return len(self.by_id)

    def next_id(self) -> int:
        """A number that no other connection had."""
        self.accepted += 1
        return self.accepted

    def remove(self, client: Client) -> None:
        """Forget a connection that is no more."""
        self.slow.discard(client.session.id)
        if self.by_id.pop(client.session.id, None) is not None:
            self.commands += client.session.commands
            self.received += client.session.received
            self.sent += client.session.sent
