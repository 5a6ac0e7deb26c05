"""Coordination. SLOWLOG: the commands that took long, the newest first.

The duration is that from the beginning of a command to its reply, so a read that waits for S3 is slow, as it is
for its client; Redis counts only the time that a command computes. Commands on the fast paths are never recorded,
not even with a threshold of 0.

A long reply is encoded in parts, between which the event loop runs other work.
"""

from __future__ import annotations

import asyncio
from typing import Any

from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.statistics.slow_log import SlowCommand
from milena_common.resp.encoding import OK, Pieces, Raw, encode
from milena_common.resp.redis_replies import CommandError, integer, wrong_form

# Entries of a reply that are encoded in one step of the event loop: about 1 ms of work.
ENCODED_AT_ONCE = 64
DEFAULT_COUNT = 10
NO_COUNT = "ERR count should be greater than or equal to -1"


COMMANDS = CommandTable[Context](flags=("admin", "loading", "stale"), group="server")


COMMANDS.parent(
    "slowlog",
    group="server",
    since="2.2.12",
    summary="A container for slow log commands.",
)


@COMMANDS.command(
    "slowlog|get",
    arity=-2,
    since="2.2.12",
    complexity="O(N) where N is the number of entries returned",
    usage="[<count>]",
    summary="Returns the newest entries: id, time, microseconds, arguments, address and name of the client.",
)
def get(context: Context, session: Session, argv: list[bytes]) -> Any:
    if len(argv) > 3:
        raise wrong_form("slowlog", argv[1])
    number = integer(argv[2], NO_COUNT) if len(argv) == 3 else DEFAULT_COUNT
    if number < -1:
        raise CommandError(NO_COUNT)
    found = context.slow.log.newest(number)
    return found if len(found) <= ENCODED_AT_ONCE else _in_parts(found, session.protocol)


async def _in_parts(found: list[SlowCommand], protocol: int) -> Pieces:
    pieces = [b"*%d\r\n" % len(found)]
    for start in range(0, len(found), ENCODED_AT_ONCE):
        pieces += [encode(entry, protocol) for entry in found[start : start + ENCODED_AT_ONCE]]
        await asyncio.sleep(0)
    return Pieces(pieces)


@COMMANDS.command(
    "slowlog|len",
    arity=2,
    since="2.2.12",
    summary="Returns the number of entries in the slow log.",
)
def length(context: Context, session: Session, argv: list[bytes]) -> int:
    return len(context.slow.log)


@COMMANDS.command(
    "slowlog|reset",
    arity=2,
    since="2.2.12",
    complexity="O(N) where N is the number of entries in the slowlog",
    summary="Clears all entries from the slow log.",
)
def reset(context: Context, session: Session, argv: list[bytes]) -> Raw:
    context.slow.log.clear()
    return Raw(OK)
