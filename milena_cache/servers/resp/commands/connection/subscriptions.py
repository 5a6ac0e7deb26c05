"""Pure. SUBSCRIBE and its relatives, for the one channel that a node has: `__redis__:invalidate`.

RESP2 has no pushes. A RESP2 client with a cache of its own has its reads tracked for a second connection (CLIENT
TRACKING ON REDIRECT), which subscribes to this channel and gets the invalidated keys as messages. There is no
PUBLISH and no other channel: a subscription that could never get a message is rejected, rather than left waiting.

A RESP2 connection with a subscription may send only the commands that Redis allows there, since its client could
not distinguish other replies from messages.
"""

from __future__ import annotations

from typing import Final

from milena_cache.servers.resp.dispatch.command import Command, CommandError
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import Raw, bulk, null, push

CHANNEL: Final = b"__redis__:invalidate"
NO_OTHER: Final = (
    f"ERR the only channel is {CHANNEL.decode()}, for the invalidations of CLIENT TRACKING ON REDIRECT; "
    "there is no other publish/subscribe"
)
_ALLOWED: Final = frozenset(
    (
        "subscribe",
        "unsubscribe",
        "psubscribe",
        "punsubscribe",
        "ssubscribe",
        "sunsubscribe",
        "ping",
        "quit",
        "reset",
    )
)


def check_subscriber(session: Session, command: Command[Context]) -> None:
    """Raise CommandError for a command that a RESP2 connection with a subscription must not send."""
    if session.subscribed and not session.resp3 and command.name not in _ALLOWED:
        raise CommandError(
            f"ERR Can't execute '{command.name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
            "allowed in this context"
        )


def message(session: Session, kind: bytes, *elements: bytes) -> bytes:
    """Return a publish/subscribe message in the session's protocol; `elements` are encoded already."""
    if session.resp3:
        return push(kind, *elements)
    return b"*%d\r\n%b%b" % (1 + len(elements), bulk(kind), b"".join(elements))


def subscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Subscribe to the channel, with one message for each name. Raises CommandError for any other channel."""
    if any(name != CHANNEL for name in argv[1:]):
        raise CommandError(NO_OTHER)
    session.subscribed = True
    return Raw(message(session, b"subscribe", bulk(CHANNEL), b":1\r\n") * (len(argv) - 1))


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


def reject_command(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Raise CommandError for patterns and shard channels, which would never get a message."""
    raise CommandError(NO_OTHER)


def unsubscribe_none(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Return the messages for patterns and shard channels, of which there are no subscriptions."""
    kind = argv[0].lower()
    count = b":%d\r\n" % (session.subscribed if kind == b"punsubscribe" else 0)
    names = [bulk(name) for name in argv[1:]] or [null(session.protocol)]
    return Raw(b"".join(message(session, kind, name, count) for name in names))


_FLAGS = ("pubsub", "noscript", "loading", "stale")
COMMANDS = tuple(
    Command(
        name,
        handler,
        arity,
        flags=_FLAGS,
        categories=("@pubsub", "@slow"),
        group="pubsub",
        since=since,
        summary=summary,
        complexity="O(N) where N is the number of channels",
        # It changes the messages that may come between the replies before it.
        behind_all=True,
    )
    for name, handler, arity, since, summary in (
        (
            "subscribe",
            subscribe,
            -2,
            "2.0.0",
            "Listens for messages of __redis__:invalidate; there is no other channel.",
        ),
        ("unsubscribe", unsubscribe, -1, "2.0.0", "Stops listening to messages of channels."),
        (
            "psubscribe",
            reject_command,
            -2,
            "2.0.0",
            "Is rejected: there are no channels that a pattern could match.",
        ),
        ("punsubscribe", unsubscribe_none, -1, "2.0.0", "Replies that there is no such subscription."),
        ("ssubscribe", reject_command, -2, "7.0.0", "Is rejected: there are no shard channels."),
        ("sunsubscribe", unsubscribe_none, -1, "7.0.0", "Replies that there is no such subscription."),
    )
)
