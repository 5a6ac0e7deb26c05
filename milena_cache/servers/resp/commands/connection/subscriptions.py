"""Pure. SUBSCRIBE and its relatives: the subscriptions of a connection (`servers.resp.state.channels`).

The channel `__redis__:invalidate` is for the cache of a RESP2 client, since RESP2 has no pushes: its reads are
tracked for a second connection (CLIENT TRACKING ON REDIRECT), which subscribes to this channel and gets the
invalidated keys as messages.

A RESP2 connection with a subscription may send only the commands that Redis allows there, since its client could
not distinguish other replies from messages.
"""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.channels import Kind, message
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import Raw, bulk, null
from milena_common.resp.redis_replies import CommandError

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


@COMMANDS.command("subscribe", arity=-2, since="2.0.0", summary="Listens for messages published to channels.")
def subscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Subscribe to channels, with one message for each name."""
    return _subscribed(context, session, "channel", argv)


@COMMANDS.command(
    "psubscribe",
    arity=-2,
    since="2.0.0",
    summary="Listens for messages published to channels that match one or more patterns.",
)
def psubscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Subscribe to patterns, with one message for each."""
    return _subscribed(context, session, "pattern", argv)


@COMMANDS.command("ssubscribe", arity=-2, since="7.0.0", summary="Listens for messages of shard channels.")
def ssubscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Subscribe to shard channels, with one message for each name."""
    return _subscribed(context, session, "shard", argv)


def _subscribed(context: Context, session: Session, kind: Kind, argv: list[bytes]) -> Raw:
    word = argv[0].lower()
    parts: list[bytes] = []
    for name in argv[1:]:
        try:
            number = context.channels.subscribe(session, kind, name)
        except CommandError:
            if not parts:
                raise
            break  # the client reads from the messages what it is subscribed to
        parts.append(message(session, word, bulk(name), b":%d\r\n" % number))
    return Raw(b"".join(parts))


@COMMANDS.command(
    "unsubscribe",
    arity=-1,
    since="2.0.0",
    summary="Stops listening to messages posted to channels.",
)
def unsubscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Unsubscribe from the named channels, or from all, with one message for each."""
    return _unsubscribed(context, session, "channel", argv)


@COMMANDS.command(
    "punsubscribe",
    arity=-1,
    since="2.0.0",
    summary="Stops listening to messages published to channels that match one or more patterns.",
)
def punsubscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Unsubscribe from patterns, or from all of them, with one message for each."""
    return _unsubscribed(context, session, "pattern", argv)


@COMMANDS.command(
    "sunsubscribe",
    arity=-1,
    since="7.0.0",
    summary="Stops listening to messages posted to shard channels.",
)
def sunsubscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Unsubscribe from shard channels, or from all of them, with one message for each."""
    return _unsubscribed(context, session, "shard", argv)


def _unsubscribed(context: Context, session: Session, kind: Kind, argv: list[bytes]) -> Raw:
    word, channels = argv[0].lower(), context.channels
    names = argv[1:] or channels.names_of(session, kind)
    if not names:
        number = channels.number_of(session, kind)
        return Raw(message(session, word, null(session.protocol), b":%d\r\n" % number))
    parts = [
        message(session, word, bulk(name), b":%d\r\n" % channels.unsubscribe(session, kind, name)) for name in names
    ]
    return Raw(b"".join(parts))
