"""Pure. What the queue of events is for the node: a Protocol, of which SQS is the implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

# Messages that one request returns, at most.
MAX_MESSAGES: Final = 10


class Message(NamedTuple):
    """A message that the queue gives to this reader for a while.

    body: its text
    receipt: the name by which it is deleted or postponed
    receives: how often readers were given it, this time included
    """

    body: str
    receipt: str
    receives: int


class QueueFailure(Exception):
    """A request to the queue failed."""


class Queue(Protocol):
    """The queue. Every method may raise QueueFailure."""

    async def receive(self) -> Sequence[Message]:
        """Return at most MAX_MESSAGES messages, after some seconds none. No other reader gets them meanwhile."""

    async def delete(self, receipts: Sequence[str]) -> None:
        """Delete messages that were received, at most MAX_MESSAGES."""

    async def postpone(self, messages: Sequence[tuple[str, int]]) -> None:
        """Have messages be received again, by any reader, after so many seconds each: at most MAX_MESSAGES."""
