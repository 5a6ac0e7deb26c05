"""Coordination. MILENA.PROMISE: another member of the ring asks this node to stand by that ring for a while.

`milena_cache.membership.promises` describes what is promised. It is for nodes, on connections that have named
cluster and node; it takes no key, so neither the fence nor the rate limit applies.
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.commands.server.milena_call import timeout_ms
from milena_cache.servers.resp.dispatch.command import CommandError, integer
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context

COMMANDS = CommandTable[Context](categories=("keyspace",), since="7.0.0")


@COMMANDS.command(
    "milena.promise",
    arity=3,
    flags=("fast",),
    group="server",
    summary="Promises another node to acknowledge no newer ring for a while, or returns a newer ring.",
    usage="<epoch> <lease_ms>",
)
def promise(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Return an awaitable of `PromisesGiven.promise`: `MILENA.PROMISE epoch lease_ms`. Raises InvalidRequest."""
    if not session.identified:
        raise CommandError("NOPERM MILENA.PROMISE is for nodes, on connections that begin with MILENA.HELLO")
    return context.promises.promise(integer(argv[1]), timeout_ms(argv[2]) / 1000)
