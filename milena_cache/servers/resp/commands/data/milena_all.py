"""Coordination. MILENA.ALL: KEYS, SCAN, DBSIZE, RANDOMKEY and FLUSHDB of all nodes, for clients of routers.

The node that is asked asks the others, as for a client that uses it for all keys. What the client may see is for
the router to say.
"""

from __future__ import annotations

from typing import Any, Final

from milena_cache.servers.resp.dispatch.admission import check_identified
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.redis_replies import unknown_command, wrong_arity

COMMANDS = CommandTable[Context](categories=("keyspace",), since="7.0.0")

_CARRIED_OUT: Final = frozenset((b"KEYS", b"SCAN", b"DBSIZE", b"RANDOMKEY", b"FLUSHDB", b"FLUSHALL"))


@COMMANDS.command(
    "milena.all",
    arity=-2,
    operation="list",
    flags=("readonly",),
    complexity="That of the command.",
    summary="Carries out a command on all keys for those of all nodes.",
    usage="<command> [<arg> ...]",
)
def all_(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Return what the command does, or an awaitable of it. Raises CommandError, and as the command."""
    check_identified(session)
    inner = argv[1:]
    command = context.commands.get(inner[0].upper())
    if command is None or command.name.upper().encode() not in _CARRIED_OUT:
        raise unknown_command(inner)
    if not command.accepts(len(inner)):
        raise wrong_arity(command.name)
    whole = Session(session.id, session.addr, session.laddr, session.created_at)
    whole.spans = True
    whole.principal = session.principal
    return command.handler(context, whole, inner)
