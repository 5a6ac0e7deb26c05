"""Pure. What the commands have that the router replies to itself, and how each of them is described."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from milena_common.access.access import Access
from milena_common.access.rules import ObjectName
from milena_common.cluster.slot_assignment import Ring
from milena_common.forwarding.routing import Forwarded
from milena_common.forwarding.scripts import Scripts
from milena_common.metrics.call_counts import CallCounts
from milena_common.resp.identity import Identity
from milena_common.runtime.clock import Clock
from milena_router.redis.feeds import Feeds
from milena_router.redis.session import Session


@dataclass(slots=True)
class Context:
    """What the commands need.

    access: users and logins
    clock: the time, monotonic and of day
    ring: returns the newest ring
    identity: returns what this router is: cluster, default bucket, ""
    calls: counts and durations by operation
    version: of Milena
    max_connections: how many clients may be connected
    sessions: the open connections by id, and their unsent and unread bytes
    request: sends a command between nodes to the owner of cache keys of one slot; the reply is in RESP3
    default_bucket: returns the nodes' S3_BUCKET
    named: returns the name of the object that a command calls by a key, for the rules of users
    scripts: those that clients have sent
    feeds: the messages of publish/subscribe, and requests of nodes that take long
    opened, rejected: connections so far, and those of them over the limit
    """

    access: Access
    clock: Clock
    ring: Callable[[], Ring]
    identity: Callable[[], Identity]
    calls: CallCounts
    version: str
    max_connections: int
    request: Callable[[Forwarded, list[bytes], list[bytes]], Awaitable[bytes]]
    default_bucket: Callable[[], str]
    named: Callable[[bytes], ObjectName]
    feeds: Feeds
    sessions: dict[int, tuple[Session, Callable[[], tuple[int, int]]]] = field(default_factory=dict)
    opened: int = 0
    rejected: int = 0
    started_at: float = 0.0
    scripts: Scripts = field(default_factory=Scripts)


# Returns a reply (see `milena_common.resp.encoding`) or an awaitable of one. Raises CommandError or MilenaError.
Handler = Callable[[Context, Session, list[bytes]], Any]


@dataclass(frozen=True, slots=True)
class Local:
    """A command of the router's own.

    name: in lower case, of a subcommand with its parent's
    arity: the number of arguments with the name; negative: the minimum
    handler: see `Handler`
    behind_all: True if it begins only when every command before it has its reply
    in_transaction: True if it is carried out between MULTI and EXEC
    queued: True if it can be queued there
    behind_writes: True if it begins only when every write before it has its reply
    while_subscribed: True if a RESP2 connection with a subscription may send it
    messages: True if its reply is of messages, which the client gets with CLIENT REPLY OFF too
    rejects: True if its handler only raises an error
    """

    name: str
    arity: int
    handler: Handler
    behind_all: bool = False
    in_transaction: bool = False
    queued: bool = False
    behind_writes: bool = False
    while_subscribed: bool = False
    messages: bool = False
    rejects: bool = False

    def accepts(self, number: int) -> bool:
        """True if `number` arguments, the name included, are allowed."""
        return number == self.arity if self.arity >= 0 else number >= -self.arity
