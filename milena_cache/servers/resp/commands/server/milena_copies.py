"""Coordination. MILENA.COPY and MILENA.COLLECT: copies of dirty writes between nodes.

`milena_cache.copies.frames` and `collecting` describe what is sent. Only nodes send them: a connection must have
named this process first (MILENA.HELLO), so that no frame reaches another process at the address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any

from milena_cache.copies.frames import decode_sender
from milena_cache.servers.resp.dispatch.admission import check_identified
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.errors import InvalidRequest
from milena_common.resp.redis_replies import integer

COMMANDS = CommandTable[Context](categories=("keyspace",), since="7.0.0", complexity="O(N) where N is its records.")


@COMMANDS.command(
    "milena.copy",
    arity=7,
    flags=("write", "denyoom"),
    summary="Takes copies of the writes of another node, and releases of such.",
    usage="<epoch> <owner> <process> <session> <serial> <frame>",
)
def copy(context: Context, session: Session, argv: list[bytes]) -> int | Awaitable[int]:
    """Carry out a frame, and return the reply as a number when it is durable. Raises as `Holder.take_frame`."""
    check_identified(session)
    return context.copies.holder.take_frame(decode_sender(argv), argv[6])


COMMANDS.parent(
    "milena.collect",
    categories=("keyspace",),
    since="7.0.0",
    complexity="Depends on the subcommand.",
    summary="A container for what a new owner of slots requests from those that hold copies of them.",
)


@COMMANDS.command(
    "milena.collect|heads",
    arity=7,
    flags=("readonly",),
    summary="Returns which copies and tombstones this node has of some slots.",
    usage="<epoch> <owner> <first> <last> <cursor>",
)
def heads(context: Context, session: Session, argv: list[bytes]) -> Coroutine[Any, Any, list[bytes]]:
    """Return the next cursor, and heads: `MILENA.COLLECT HEADS epoch owner first last cursor`.

    Raises as `Collected.heads`.
    """
    check_identified(session)
    first, last = integer(argv[4]), integer(argv[5])
    return context.copies.collected.heads(integer(argv[2]), _text(argv[3]), first, last, argv[6])


@COMMANDS.command(
    "milena.collect|writes",
    arity=-5,
    flags=("readonly",),
    summary="Returns the records of copies, null for those that are gone.",
    usage="<epoch> <owner> <key> [<key> ...]",
)
def writes(context: Context, session: Session, argv: list[bytes]) -> list[bytes | None]:
    """Return the records of `MILENA.COLLECT WRITES epoch owner key …`. Raises as `Collected.records`."""
    check_identified(session)
    return context.copies.collected.records(integer(argv[2]), _text(argv[3]), argv[4:])


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("owner: is not UTF-8") from None
