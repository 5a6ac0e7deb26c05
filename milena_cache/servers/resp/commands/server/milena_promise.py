"""Coordination. MILENA.PROMISE: another member of the ring asks this node to stand by that ring for a while.
MILENA.RING: a member sends a newer ring than that for which it has promised.

`milena_cache.membership.promises` describes what is promised. They are for nodes, on connections that have named
cluster and node; they take no key, so neither the fence nor the rate limit applies.
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.dispatch.call_times import timeout_ms
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.redis_replies import CommandError, integer

COMMANDS = CommandTable[Context](categories=("keyspace",), since="7.0.0")


@COMMANDS.command(
    "milena.promise",
    arity=-3,
    flags=("fast",),
    group="server",
    summary="Promises another node to acknowledge no newer ring for a while, or returns a newer ring.",
    usage="<epoch> <lease_ms> [<resp_address>]",
)
def promise(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Return an awaitable of `PromisesGiven.promise`. Raises InvalidRequest."""
    _check_node(session, "MILENA.PROMISE")
    receiver = argv[3].decode(errors="replace") if len(argv) > 3 else ""
    return context.promises.promise(integer(argv[1]), timeout_ms(argv[2]) / 1000, receiver)


@COMMANDS.command(
    "milena.ring",
    arity=2,
    flags=("fast",),
    group="server",
    summary="Takes over a newer ring from another node, and returns the epoch of the newest one.",
    usage="<ring>",
)
def take_ring(context: Context, session: Session, argv: list[bytes]) -> int:
    """Return the epoch of the newest ring, once this node has taken over the one that was sent if it is newer."""
    _check_node(session, "MILENA.RING")
    return context.promises.take_ring(argv[1])


def _check_node(session: Session, name: str) -> None:
    if not session.identified:
        raise CommandError(f"NOPERM {name} is for nodes, on connections that begin with MILENA.HELLO")
