"""Coordination. MILENA.WATCH and MILENA.EXEC: transactions of clients of other nodes, and of routers.

`milena_common.forwarding.transactions` has their form. The sender has checked what its client may do; what is
queued is checked here once more, since the sender may be of another version.
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.commands.data.execution import carry_out, look_at
from milena_cache.servers.resp.dispatch.admission import check_identified, check_transaction
from milena_cache.servers.resp.dispatch.command import ALL_KEYS, ONE_KEY
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.subcommands import find
from milena_cache.servers.resp.dispatch.transaction import QueuedCommand, Watched
from milena_cache.servers.resp.state.context import Context
from milena_common.forwarding.transactions import check_watched, decode_exec
from milena_common.resp.redis_replies import unknown_command, wrong_arity

COMMANDS = CommandTable[Context](categories=("transaction",), group="transactions", since="7.0.0")


@COMMANDS.command(
    "milena.watch",
    arity=-2,
    access="read",
    keys=ALL_KEYS,
    complexity="O(1) for every key.",
    summary="Returns what keys are, for a transaction that another node forwards.",
    usage="<key> [<key> ...]",
)
def watch(context: Context, session: Session, argv: list[bytes]) -> Any:
    check_identified(session)
    check_watched(len(argv) - 1)
    return look_at(context, argv[1:])


@COMMANDS.command(
    "milena.exec",
    arity=-3,
    access="modify",
    keys=ONE_KEY,
    complexity="Depends on commands in the transaction",
    summary="Executes all commands of a transaction that another node forwards.",
    usage="<key> <watched> [<key> <state> ...] [<words> <word> ... ...]",
)
def exec_(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Carry out a transaction. Raises CommandError, and as `Execution.attempt`."""
    check_identified(session)
    watched, queue = decode_exec(argv)
    commands = []
    for each in queue:
        command = find(context.commands, each)
        if command is None or not command.has_keys:
            raise unknown_command(each)
        if not command.accepts(len(each)):
            raise wrong_arity(command.name)
        check_transaction(command, each)
        commands.append(QueuedCommand(command, each))
    return carry_out(context, session, commands, {key: Watched.decode(state) for key, state in watched.items()})
