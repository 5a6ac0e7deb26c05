"""Coordination. KEYS, SCAN, DBSIZE and RANDOMKEY at the router: a node carries them out for the keys of all nodes.

It is always the owner of slot 0, since cursors are known only to the node that has returned them. After a change of
owners a cursor is unknown, and a scan begins again, as where a client scans one node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from milena_common.forwarding.routing import Forwarded
from milena_common.forwarding.transactions import decode_replies
from milena_common.resp.encoding import Raw
from milena_router.redis.context import Context
from milena_router.redis.session import Session

ALL = Forwarded("milena.all", -2, "read", operation="other")
# A key of slot 0.
_KEY = b""
_NULL = b"_\r\n"


async def dbsize(context: Context, session: Session, argv: list[bytes]) -> Raw:
    return Raw(await _requested(context, argv))


async def randomkey(context: Context, session: Session, argv: list[bytes]) -> Any:
    reply = await _requested(context, argv)
    key = None if reply == _NULL else _text(reply)
    return key if key is not None and _may_see(context, session, "randomkey")(key) else None


async def keys(context: Context, session: Session, argv: list[bytes]) -> list[bytes]:
    return list(filter(_may_see(context, session, "keys"), _texts(await _requested(context, argv))))


async def scan(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    cursor, found = decode_replies(await _requested(context, argv)) or (b"", b"")
    return [_text(cursor), list(filter(_may_see(context, session, "scan"), _texts(found)))]


async def _requested(context: Context, argv: list[bytes]) -> bytes:
    """Return the encoded reply of a node. Raises CommandError and MilenaError."""
    return await context.request(ALL, [_KEY], [b"MILENA.ALL", *argv])


def _texts(reply: bytes) -> list[bytes]:
    return [_text(each) for each in decode_replies(reply) or ()]


def _text(reply: bytes) -> bytes:
    """Return an encoded bulk string."""
    return reply[reply.index(b"\r\n") + 2 : -2]


def _may_see(context: Context, session: Session, command: str) -> Callable[[bytes], bool]:
    """Return whether the client may see a key in the reply to `command`."""
    user = session.guard
    if user is None or user.unrestricted_for(command):
        return lambda key: True
    named = context.named
    return lambda key: user.may_see(command, named(key))
