"""Pure. SUBSCRIBE and its relatives, for the one channel that a node has: `__redis__:invalidate`.

RESP2 has no pushes. A RESP2 client with a cache of its own has its reads tracked for a second connection (CLIENT
TRACKING ON REDIRECT), which subscribes to this channel and gets the invalidated keys as messages. There is no
PUBLISH and no other channel: a subscription that could never get a message is rejected, rather than left waiting.

A RESP2 connection with a subscription may send only the commands that Redis allows there, since its client could
not distinguish other replies from messages.
"""

from __future__ import annotations

from typing import Final

from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import Raw, bulk, null, push
from milena_common.resp.redis_replies import CommandError

CHANNEL: Final = b"__redis__:invalidate"
NO_OTHER: Final = (
    f"ERR the only channel is {CHANNEL.decode()}, for the invalidations of CLIENT TRACKING ON REDIRECT; "
    "there is no other publish/subscribe"
)


COMMANDS = CommandTable[Context](
    categories=("pubsub", "slow"),
    group="pubsub",
    flags=("pubsub", "noscript", "loading", "stale"),
    complexity="O(N) where N is the number of channels",
    # They change the messages that may come between the replies before them.
    behind_all=True,
    while_subscribed=True,
)


def check_subscriber(session: Session, command: Command[Context]) -> None:
    """Raise CommandError for a command that a RESP2 connection with a subscription must not send."""
    if session.subscribed and not session.resp3 and not command.while_subscribed:
        raise CommandError(
            f"ERR Can't execute '{command.name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
            "allowed in this context"
        )


def message(session: Session, kind: bytes, *elements: bytes) -> bytes:
    """Return a publish/subscribe message in the session's protocol; `elements` are encoded already."""
    if session.resp3:
        return push(kind, *elements)
    return b"*%d\r\n%b%b" % (1 + len(elements), bulk(kind), b"".join(elements))


@COMMANDS.command(
    "subscribe",
    arity=-2,
    since="2.0.0",
    summary="Listens for messages of __redis__:invalidate; there is no other channel.",
)
def subscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Subscribe to the channel, with one message for each name. Raises CommandError for any other channel."""
    if any(name != CHANNEL for name in argv[1:]):
        raise CommandError(NO_OTHER)
    session.subscribed = True
    return Raw(message(session, b"subscribe", bulk(CHANNEL), b":1\r\n") * (len(argv) - 1))


@COMMANDS.command(
    "unsubscribe",
    arity=-1,
    since="2.0.0",
    summary="Stops listening to messages of channels.",
)
def unsubscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Unsubscribe from the named channels, or from all, with one message for each."""
    names = argv[1:]
    if not names:
        left_channels = bulk(CHANNEL) if session.subscribed else null(session.protocol)
        session.subscribed = False
        return Raw(message(session, b"unsubscribe", left_channels, b":0\r\n"))
    parts = []
    for name in names:
        if name == CHANNEL:
            session.subscribed = False
        parts.append(message(session, b"unsubscribe", bulk(name), b":%d\r\n" % session.subscribed))
    return Raw(b"".join(parts))


@COMMANDS.command(
    "psubscribe",
    arity=-2,
    since="2.0.0",
    summary="Is rejected: there are no channels that a pattern could match.",
)
def psubscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    raise CommandError(NO_OTHER)


@COMMANDS.command(
    "punsubscribe",
    arity=-1,
    since="2.0.0",
    summary="Replies that there is no such subscription.",
)
def punsubscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    return _unsubscribed(session, argv, int(session.subscribed))


@COMMANDS.command(
    "ssubscribe",
    arity=-2,
    since="7.0.0",
    summary="Is rejected: there are no shard channels.",
)
def ssubscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    raise CommandError(NO_OTHER)


@COMMANDS.command(
    "sunsubscribe",
    arity=-1,
    since="7.0.0",
    summary="Replies that there is no such subscription.",
)
def sunsubscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    return _unsubscribed(session, argv, 0)


def _unsubscribed(session: Session, argv: list[bytes], remaining: int) -> Raw:
    """Return the messages for names of which there are no subscriptions, while there are `remaining` others."""
    kind = argv[0].lower()
    count = b":%d\r\n" % remaining
    names = [bulk(name) for name in argv[1:]] or [null(session.protocol)]
    return Raw(b"".join(message(session, kind, name, count) for name in names))
