"""Coordination. Publish/subscribe at the router: SUBSCRIBE and its relatives, PUBLISH, PUBSUB; and FLUSHDB.

The router's clients are its own subscribers, and nodes send it their messages (`feeds`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

from milena_common.api.errors import NodeLost
from milena_common.pubsub.channels import Kind
from milena_common.pubsub.replies import active, numbers, subscribed, unsubscribed
from milena_common.resp.encoding import Raw
from milena_common.resp.redis_replies import SYNTAX, CommandError
from milena_router.redis.context import Context, Handler
from milena_router.redis.session import Session

log = logging.getLogger(__name__)


def subscribe(kind: Kind) -> Handler:
    """Return the handler of a command that subscribes to names of this kind.

    The commands behind it wait, since a RESP2 connection with a subscription may not send all of them.
    """

    def handler(context: Context, session: Session, argv: list[bytes]) -> Awaitable[Raw]:
        session.executing = True
        return _subscribe(context, session, kind, argv)

    return handler


async def _subscribe(context: Context, session: Session, kind: Kind, argv: list[bytes]) -> Raw:
    try:
        async with context.feeds.subscribing([(kind, name) for name in argv[1:]]):
            if session.id not in context.sessions:
                raise CommandError("ERR the connection has ended")  # no client reads this
            return subscribed(context.feeds.channels, session, kind, argv[0].lower(), argv[1:])
    finally:
        session.executing = False


def unsubscribe(kind: Kind) -> Handler:
    """Return the handler of a command that unsubscribes from names of this kind."""

    def handler(context: Context, session: Session, argv: list[bytes]) -> Raw:
        return unsubscribed(context.feeds.channels, session, kind, argv[0].lower(), argv[1:])

    return handler


async def publish(context: Context, session: Session, argv: list[bytes]) -> int:
    return await context.feeds.publish(argv[0].upper(), argv[1], argv[2])


def channels(kind: Kind) -> Handler:
    """Return the handler of PUBSUB CHANNELS or SHARDCHANNELS."""
    return lambda context, session, argv: active(context.feeds.channels, kind, argv)


def numsub(kind: Kind) -> Handler:
    """Return the handler of PUBSUB NUMSUB or SHARDNUMSUB."""
    return lambda context, session, argv: numbers(context.feeds.channels, kind, argv[2:])


def numpat(context: Context, session: Session, argv: list[bytes]) -> int:
    return context.feeds.channels.patterns


def flush(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Have all nodes flush, as their ALLOW_FLUSH says; the commands behind it wait. Raises CommandError."""
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() not in (b"SYNC", b"ASYNC")):
        raise CommandError(SYNTAX)
    session.executing = True
    return _flush(context, session, argv)


async def _flush(context: Context, session: Session, argv: list[bytes]) -> Raw:
    name = argv[0].decode().upper()
    log.warning("%s by user %r from %s begins", name, session.principal.name, session.addr)
    try:
        await context.feeds.request_of_all([argv[0]])
    except Exception as error:
        log.warning("%s ended early: %s", name, error)
        if type(error) is NodeLost:
            raise NodeLost(f"{error}; some of it may have been done") from None
        raise
    finally:
        session.executing = False
    log.warning("%s has ended", name)
    return Raw(b"+OK\r\n")
