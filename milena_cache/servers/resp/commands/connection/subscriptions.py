"""Pure. SUBSCRIBE and its relatives: the subscriptions of a connection (`milena_common.pubsub`)."""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.pubsub.channels import Kind
from milena_common.pubsub.replies import subscribed, unsubscribed
from milena_common.resp.encoding import Raw

COMMANDS = CommandTable[Context](
    categories=("pubsub", "slow"),
    group="pubsub",
    flags=("pubsub", "noscript", "loading", "stale"),
    complexity="O(N) where N is the number of channels",
    # They change the messages that may come between the replies before them.
    behind_all=True,
    while_subscribed=True,
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
    return subscribed(context.channels, session, kind, argv[0].lower(), argv[1:])


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
    return unsubscribed(context.channels, session, kind, argv[0].lower(), argv[1:])
