"""Pure. PUBLISH, SPUBLISH and PUBSUB: messages to all who are subscribed, on whichever node.

The reply to PUBLISH is the number of receivers on this node, as in Redis Cluster: other nodes get the message after
it (`milena_cache.servers.resp.state.publisher`). Routers subscribe at every node for their clients, as relays
(`milena_common.pubsub.channels`).
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.dispatch.admission import check_identified
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.pubsub.between import names_in
from milena_common.pubsub.replies import active, numbers
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.redis_replies import CommandError, wrong_arity

COMMANDS = CommandTable[Context](group="pubsub", categories=("pubsub",))


@COMMANDS.command(
    "publish",
    arity=3,
    flags=("pubsub", "loading", "stale", "fast"),
    since="2.0.0",
    complexity="O(N+M) where N is the number of subscribers and M the number of patterns",
    summary="Posts a message to a channel.",
)
def publish(context: Context, session: Session, argv: list[bytes]) -> int:
    return _published(context, argv[1], argv[2], shard=False)


@COMMANDS.command(
    "spublish",
    arity=3,
    flags=("pubsub", "loading", "stale", "fast"),
    since="7.0.0",
    complexity="O(N) where N is the number of subscribers",
    summary="Posts a message to a shard channel.",
)
def spublish(context: Context, session: Session, argv: list[bytes]) -> int:
    return _published(context, argv[1], argv[2], shard=True)


def _published(context: Context, channel: bytes, payload: bytes, *, shard: bool) -> int:
    context.channels.published += 1
    context.publisher.publish(channel, payload, shard=shard)
    return context.channels.deliver(channel, payload, shard=shard)


@COMMANDS.command(
    "milena.publish",
    arity=-4,
    flags=("pubsub", "noscript", "loading", "stale"),
    since="7.0.0",
    summary="Delivers messages that clients of another node have published.",
)
def milena_publish(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Deliver `MILENA.PUBLISH kind channel payload [...]`; the kind is `c`, or `s` for a shard channel."""
    arguments = argv[1:]
    if len(arguments) % 3:
        raise wrong_arity("milena.publish")
    for at in range(0, len(arguments), 3):
        shard = arguments[at] == b"s"
        context.channels.deliver(arguments[at + 1], arguments[at + 2], shard=shard, relayed=True)
    return Raw(OK)


@COMMANDS.command(
    "milena.subscribe",
    arity=-3,
    flags=("pubsub", "noscript", "loading", "stale"),
    since="7.0.0",
    complexity="O(N) where N is the number of names",
    summary="Subscribes a router to what clients of this node publish, for clients of the router.",
)
def milena_subscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Subscribe to `MILENA.SUBSCRIBE kind name [...]`. Raises CommandError and InvalidRequest."""
    check_identified(session)
    if not session.resp3:
        raise CommandError("ERR MILENA.SUBSCRIBE needs RESP3, because messages come as pushes: send HELLO 3 first")
    names = names_in(argv)
    context.channels.relay(session)
    for kind, name in names:
        context.channels.subscribe(session, kind, name)
    return Raw(OK)


@COMMANDS.command(
    "milena.unsubscribe",
    arity=-3,
    flags=("pubsub", "noscript", "loading", "stale"),
    since="7.0.0",
    complexity="O(N) where N is the number of names",
    summary="Ends subscriptions of a router.",
)
def milena_unsubscribe(context: Context, session: Session, argv: list[bytes]) -> Raw:
    check_identified(session)
    for kind, name in names_in(argv):
        context.channels.unsubscribe(session, kind, name)
    return Raw(OK)


COMMANDS.parent(
    "pubsub",
    group="pubsub",
    since="2.8.0",
    complexity="Depends on subcommand.",
    summary="A container for Pub/Sub commands.",
)


@COMMANDS.command(
    "pubsub|channels",
    arity=-2,
    flags=("pubsub", "loading", "stale"),
    categories=("pubsub", "slow"),
    since="2.8.0",
    complexity="O(N) where N is the number of active channels",
    usage="[<pattern>]",
    summary="Returns the channels to which a client of this node is subscribed.",
)
def channels(context: Context, session: Session, argv: list[bytes]) -> list[bytes]:
    return active(context.channels, "channel", argv)


@COMMANDS.command(
    "pubsub|shardchannels",
    arity=-2,
    flags=("pubsub", "loading", "stale"),
    categories=("pubsub", "slow"),
    since="7.0.0",
    complexity="O(N) where N is the number of active shard channels",
    usage="[<pattern>]",
    summary="Returns the shard channels to which a client of this node is subscribed.",
)
def shard_channels(context: Context, session: Session, argv: list[bytes]) -> list[bytes]:
    return active(context.channels, "shard", argv)


@COMMANDS.command(
    "pubsub|numsub",
    arity=-2,
    flags=("pubsub", "loading", "stale"),
    categories=("pubsub", "slow"),
    since="2.8.0",
    complexity="O(N) for N channels",
    usage="[<channel> ...]",
    summary="Returns the number of subscribers of channels on this node.",
)
def numsub(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    return numbers(context.channels, "channel", argv[2:])


@COMMANDS.command(
    "pubsub|shardnumsub",
    arity=-2,
    flags=("pubsub", "loading", "stale"),
    categories=("pubsub", "slow"),
    since="7.0.0",
    complexity="O(N) for N shard channels",
    usage="[<shardchannel> ...]",
    summary="Returns the number of subscribers of shard channels on this node.",
)
def shard_numsub(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    return numbers(context.channels, "shard", argv[2:])


@COMMANDS.command(
    "pubsub|numpat",
    arity=2,
    flags=("pubsub", "loading", "stale"),
    categories=("pubsub", "slow"),
    since="2.8.0",
    summary="Returns the number of patterns to which clients of this node are subscribed.",
)
def numpat(context: Context, session: Session, argv: list[bytes]) -> int:
    return context.channels.patterns
