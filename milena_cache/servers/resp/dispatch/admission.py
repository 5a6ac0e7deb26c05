"""Pure. Checks by which commands of any kind are rejected before they begin.

A rejected command has no effect. Where that matters its error says "nothing was done", and the client may safely
repeat it.
"""

from __future__ import annotations

from typing import Any, Final

from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.session import Session
from milena_common.access.commands import CLUSTER_COMMANDS
from milena_common.api.errors import Overloaded
from milena_common.forwarding.transactions import check_options, not_available
from milena_common.resp.redis_replies import CommandError

# Milliseconds that a client should wait after a rejection for overload.
RETRY_AFTER_MS: Final = 500

# Connections over RESP_MAX_CONNECTIONS that are kept for the other nodes: clients that use up the limit must not
# keep slots from moving, nor promises from being given. A node has one to each member; who gets none tries again.
MEMBER_CONNECTIONS: Final = 64
# Seconds in which such a connection names the cluster and this node.
MEMBER_SECONDS: Final = 5.0
MAX_CLIENTS: Final = "ERR max number of clients reached"
_HANDSHAKE: Final = frozenset(("hello", "auth", "client", "milena.hello"))
# A node that hands slots over sends PING to find a moment in which round trips are short.
_BETWEEN_NODES: Final = CLUSTER_COMMANDS | {"ping"}

# Commands that change what the connection is, while the replies of a transaction are one reply; and those that take
# long.
_NOT_QUEUED: Final = frozenset(
    (
        *("client|reply", "client|defer", "client|tracking", "client|caching"),
        *("flushdb", "flushall", "keys", "scan", "wait", "waitaof"),
    )
)
# Maximum number of keys of one command: the work that is not divided takes some milliseconds then.
MAX_KEYS: Final = 65_536


def check_keys(keys: list[bytes]) -> None:
    """Raise CommandError for a command with more than MAX_KEYS keys."""
    if len(keys) > MAX_KEYS:
        raise CommandError(f"ERR the command has {len(keys)} keys; allowed are at most {MAX_KEYS}")


def check_member(session: Session, command: Command[Any]) -> None:
    """Raise CommandError, and close, unless the command is for nodes and the connection is one's (MILENA.HELLO)."""
    if command.name not in _HANDSHAKE and not (session.identified and command.name in _BETWEEN_NODES):
        session.closing = True
        raise CommandError(MAX_CLIENTS)


def check_identified(session: Session) -> None:
    """Raise CommandError unless the connection has named this process."""
    if not session.identified:
        raise CommandError("NOPERM only nodes of the cluster may send this, after MILENA.HELLO with this node's id")


def check_transaction(command: Command[Any], argv: list[bytes]) -> None:
    """Raise CommandError for a command that cannot be in a transaction."""
    if (
        (command.has_keys and command.decide is None and command.decide_in is None)
        or command.about is not None
        or command.behind_all
        or command.name in _NOT_QUEUED
        or (command.while_subscribed and command.group == "pubsub")
    ):
        raise not_available(command.name)
    check_options(command.name, argv)


def check_deadline(command: Command[Any], waited: float, timeout: float) -> None:
    """Raise Overloaded for a command on keys whose bytes arrived more than `timeout` seconds ago.

    `waited` is the age of its bytes in seconds. Commands without keys are never rejected: they cost next to
    nothing, and later ones depend on them. (1) MULTI is rejected for its age; (2) the commands behind it are not,
    and run; (3) the client takes the transaction for failed.
    """
    if waited > timeout and command.has_keys:
        raise Overloaded(
            f"retry-after-ms={RETRY_AFTER_MS} the command waited for {waited:.1f} s, REQUEST_TIMEOUT_SECONDS is "
            f"{timeout:g}; nothing was done"
        )


def no_room(used: int, limit: int, seconds: float) -> Overloaded:
    """Return the error for a command for whose bytes there was no room within `seconds`; the sizes are bytes."""
    return Overloaded(
        f"retry-after-ms={RETRY_AFTER_MS} no room for the command within {seconds:g} s: {used} bytes are "
        f"in flight, and the limit is {limit} (MAX_IN_FLIGHT_BYTES); nothing was done"
    )
