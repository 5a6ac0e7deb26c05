"""Coordination. Commands on values: what Redis calls strings."""

from __future__ import annotations

from typing import Any

from milena_cache.buckets import Object
from milena_cache.change import Ack
from milena_cache.doors.redis.command import SYNTAX, Command, Refused
from milena_cache.doors.redis.context import Context
from milena_cache.doors.redis.session import Session
from milena_common.durability import Durability, check_durability
from milena_common.resp import OK, Raw


def get(context: Context, session: Session, words: list[bytes]) -> Any:
    wanted, owned_since = context.place(words[1])
    if session.tracking:
        context.tracking.read(session.id, wanted.filed_as)
    reply = context.node.lookup(wanted, owned_since)
    return reply.entry.value if reply is not None else _read(context, wanted, owned_since)


async def _read(context: Context, wanted: Object, owned_since: int) -> bytes | None:
    return (await context.node.get(wanted, context.timeout, owned_since)).entry.value


def set_(context: Context, session: Session, words: list[bytes]) -> Any:
    durability: Durability | None = None
    wanted, owned_since = context.place(words[1])
    del session
    if len(words) == 5 and words[3].upper() == b"DURABILITY":
        durability = check_durability(words[4].decode(errors="replace").lower())
    elif len(words) != 3:
        raise Refused(SYNTAX)
    acknowledged = context.node.writes.begin(wanted, words[2], context.timeout, owned_since, durability)
    return Raw(OK) if isinstance(acknowledged, Ack) else _then_ok(acknowledged)


async def _then_ok(acknowledged: Any) -> Raw:
    await acknowledged
    return Raw(OK)


COMMANDS = (
    Command("get", get, 2, "read", (1, 1, 1), "get"),
    Command("set", set_, -3, "write", (1, 1, 1), "put"),
)
