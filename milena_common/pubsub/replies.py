"""Pure. The replies of SUBSCRIBE, UNSUBSCRIBE and PUBSUB, and what a RESP2 connection with a subscription may send.

The channel `__redis__:invalidate` is for the cache of a RESP2 client, since RESP2 has no pushes: its reads are
tracked for a second connection (CLIENT TRACKING ON REDIRECT), which subscribes to this channel and gets the
invalidated keys as messages.

A RESP2 connection with a subscription may send only the commands that Redis allows there, since its client could
not distinguish other replies from messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from milena_common.access.glob import Glob
from milena_common.pubsub.channels import Channels, Kind, Subscriber, message
from milena_common.resp.encoding import RESP2, RESP3, Raw, bulk, null
from milena_common.resp.redis_replies import CommandError, wrong_form


def check_subscriber(session: Subscriber, name: str, *, allowed: bool) -> None:
    """Raise CommandError for a command that a RESP2 connection with a subscription must not send.

    `allowed`: it may be sent there.
    """
    if session.subscribed and not session.resp3 and not allowed:
        raise CommandError(
            f"ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
            "allowed in this context"
        )


def subscribed(channels: Channels, session: Subscriber, kind: Kind, word: bytes, names: Sequence[bytes]) -> Raw:
    """Subscribe to `names`, and return one message for each. Raises CommandError if not even the first can be."""
    parts: list[bytes] = []
    for name in names:
        try:
            number = channels.subscribe(session, kind, name)
        except CommandError:
            if not parts:
                raise
            break  # the client reads from the messages what it is subscribed to
        parts.append(message(session, word, bulk(name), b":%d\r\n" % number))
    return Raw(b"".join(parts))


def unsubscribed(channels: Channels, session: Subscriber, kind: Kind, word: bytes, names: Sequence[bytes]) -> Raw:
    """Unsubscribe from `names`, or from all without them, and return one message for each."""
    names = names or channels.names_of(session, kind)
    if not names:
        number = channels.number_of(session, kind)
        return Raw(message(session, word, null(RESP3 if session.resp3 else RESP2), b":%d\r\n" % number))
    parts = [
        message(session, word, bulk(name), b":%d\r\n" % channels.unsubscribe(session, kind, name)) for name in names
    ]
    return Raw(b"".join(parts))


def active(channels: Channels, kind: Kind, argv: Sequence[bytes]) -> list[bytes]:
    """Return the names that PUBSUB CHANNELS or SHARDCHANNELS asks for. Raises CommandError."""
    if len(argv) > 3:
        raise wrong_form("pubsub", argv[1])
    return channels.active(kind, Glob(argv[2] if len(argv) == 3 else b"*"))


def numbers(channels: Channels, kind: Kind, names: Sequence[bytes]) -> list[bytes | int]:
    """Return each name and how many connections are subscribed to it."""
    return [word for name in names for word in (name, channels.listeners(kind, name))]
