"""Pure. Publish/subscribe: which connections of this process get which messages.

A message is delivered at most once, and only to those that are subscribed when it arrives here. It is handed to the
connection at once: what a client does not read counts as unsent bytes, and a client with too many of them is
disconnected (`Receiver.push`). A connection's subscriptions are bounded by MAX_BYTES.

Shard channels (SSUBSCRIBE) have a space of names of their own.

**Relays.** A router subscribes at every node for its own clients. If it got every message from every node, its
clients would get each as often as there are nodes, since nodes send each other all messages. So its connection, a
relay, gets from a node what clients of that node have published, and that node's events of keys, and not what came
from other nodes. A relay is not counted as a subscriber of a message: the router counts its clients itself. Its
names are bounded by the router.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol

from milena_common.access.glob import Glob
from milena_common.resp.encoding import bulk, push
from milena_common.resp.redis_replies import CommandError

# On this channel a RESP2 client gets the invalidations of CLIENT TRACKING ON REDIRECT; it always exists.
INVALIDATIONS: Final = b"__redis__:invalidate"
# Bytes of the names of one connection's subscriptions, with NAME_BYTES for each.
MAX_BYTES: Final = 4 * 2**20
NAME_BYTES: Final = 100

Kind = Literal["channel", "pattern", "shard"]
KINDS: Final[tuple[Kind, ...]] = ("channel", "pattern", "shard")
# The kinds of messages, as clients get them.
_MESSAGE_OF: Final[Mapping[Kind, bytes]] = {"channel": b"message", "pattern": b"pmessage", "shard": b"smessage"}


class Subscriber(Protocol):
    """The part of a connection's session that is used here.

    subscribed: True while it has a subscription
    """

    subscribed: bool

    @property
    def id(self) -> int:
        """Return its number, which is never used again."""

    @property
    def resp3(self) -> bool: ...


class Receiver(Protocol):
    """The part of a connection that is used here."""

    @property
    def session(self) -> Subscriber: ...

    def push(self, message: bytes) -> None:
        """Send a message that is not a reply, or disconnect a client with too many unsent bytes."""


def message(session: Subscriber, kind: bytes, *elements: bytes) -> bytes:
    """Return a publish/subscribe message in the session's protocol; `elements` are encoded already."""
    if session.resp3:
        return push(kind, *elements)
    return b"*%d\r\n%b%b" % (1 + len(elements), bulk(kind), b"".join(elements))


class _Subscriptions:
    """Those of one connection: names by kind, and their bytes."""

    __slots__ = ("bytes", "names", "session")

    def __init__(self, session: Subscriber) -> None:
        self.session = session
        self.names: dict[Kind, dict[bytes, None]] = {"channel": {}, "pattern": {}, "shard": {}}
        self.bytes = 0

    @property
    def empty(self) -> bool:
        return not any(self.names.values())


class Channels:
    """The subscriptions of the clients of one process. `receivers`: its open connections by id.

    unused: called with kind and name when the last subscription to a name has ended
    bytes: of the names of all subscriptions
    published: messages published by clients of this process; delivered: those that were sent to subscribers
    """

    def __init__(
        self, receivers: Mapping[int, Receiver], unused: Callable[[Kind, bytes], None] | None = None
    ) -> None:
        self._receivers = receivers
        self._unused = unused
        self._relays: set[int] = set()
        self.bytes = 0
        self._by_session: dict[int, _Subscriptions] = {}
        # By kind, the connections that are subscribed to a name.
        self._by_name: dict[Kind, dict[bytes, dict[int, None]]] = {"channel": {}, "pattern": {}, "shard": {}}
        self._globs: dict[bytes, Glob] = {}  # of the patterns
        self.published = 0
        self.delivered = 0

    # ---- subscriptions

    def subscribe(self, session: Subscriber, kind: Kind, name: bytes) -> int:
        """Subscribe a connection, and return how many subscriptions of this sort it has then.

        Raises CommandError over MAX_BYTES, and InvalidRequest for a pattern that is too long.
        """
        mine = self._by_session.get(session.id)
        if mine is None:
            mine = _Subscriptions(session)
        if name not in mine.names[kind]:
            size = len(name) + NAME_BYTES
            if mine.bytes + size > MAX_BYTES and session.id not in self._relays:
                raise CommandError(
                    f"ERR the names of this connection's subscriptions have more than {MAX_BYTES} bytes; nothing "
                    f"was subscribed to beyond them"
                )
            if kind == "pattern" and name not in self._globs:
                self._globs[name] = Glob(name)
            mine.bytes += size
            self.bytes += size
            mine.names[kind][name] = None
            self._by_name[kind].setdefault(name, {})[session.id] = None
            self._by_session[session.id] = mine
            session.subscribed = True
        return self._number(mine, kind)

    def relay(self, session: Subscriber) -> None:
        """Make a connection a relay, see the module's docstring."""
        self._relays.add(session.id)

    def unsubscribe(self, session: Subscriber, kind: Kind, name: bytes) -> int:
        """End a subscription, if there is one; return how many of this sort are left."""
        mine = self._by_session.get(session.id)
        if mine is None:
            return 0
        if name in mine.names[kind]:
            del mine.names[kind][name]
            mine.bytes -= len(name) + NAME_BYTES
            if mine.empty:
                del self._by_session[session.id]
                session.subscribed = False
            self._drop(session.id, kind, name)
        return self._number(mine, kind)

    def end_all(self, session: Subscriber) -> None:
        """End all subscriptions of a connection."""
        self._relays.discard(session.id)
        mine = self._by_session.pop(session.id, None)
        if mine is None:
            return
        session.subscribed = False
        for kind, names in mine.names.items():
            for name in names:
                self._drop(session.id, kind, name)

    def _drop(self, number: int, kind: Kind, name: bytes) -> None:
        self.bytes -= len(name) + NAME_BYTES
        listeners = self._by_name[kind][name]
        del listeners[number]
        if not listeners:
            del self._by_name[kind][name]
            if kind == "pattern":
                del self._globs[name]
            if self._unused is not None:
                self._unused(kind, name)

    def _number(self, mine: _Subscriptions, kind: Kind) -> int:
        names = mine.names
        return len(names["shard"]) if kind == "shard" else len(names["channel"]) + len(names["pattern"])

    def names_of(self, session: Subscriber, kind: Kind) -> list[bytes]:
        """Return the names to which a connection is subscribed."""
        mine = self._by_session.get(session.id)
        return [] if mine is None else [*mine.names[kind]]

    def number_of(self, session: Subscriber, kind: Kind) -> int:
        """Return how many subscriptions of the sort of `kind` a connection has, as its replies tell."""
        mine = self._by_session.get(session.id)
        return 0 if mine is None else self._number(mine, kind)

    def gets_invalidations(self, number: int) -> bool:
        """True if the connection is subscribed to the channel of invalidations."""
        return number in self._by_name["channel"].get(INVALIDATIONS, ())

    # ---- messages

    def deliver(self, channel: bytes, payload: bytes, *, shard: bool = False, relayed: bool = False) -> int:
        """Send a message to all who are subscribed to its channel here; return how often it was sent to clients.

        `relayed`: another node has sent it, so that no relay gets it.
        """
        kind: Kind = "shard" if shard else "channel"
        sent = 0
        if self._by_name[kind].get(channel):
            sent += self.send(kind, channel, bulk(channel), bulk(payload), relayed=relayed)
        if not shard and self._globs:
            for pattern in self.matching(channel):
                sent += self.send("pattern", pattern, bulk(pattern), bulk(channel), bulk(payload), relayed=relayed)
        return sent

    def matching(self, channel: bytes) -> list[bytes]:
        """Return the patterns to which any client is subscribed, and that match `channel`."""
        return [pattern for pattern, glob in self._globs.items() if glob.matches(channel)]

    def send(self, kind: Kind, name: bytes, *elements: bytes, relayed: bool = False) -> int:
        """Send a message, of encoded `elements`, to the subscribers of `name`; return to how many clients."""
        encoded: dict[bool, bytes] = {}
        sent = 0
        # A push may end a connection, and with it its subscriptions.
        for number in tuple(self._by_name[kind].get(name, ())):
            client = self._receivers.get(number)
            is_relay = number in self._relays
            if client is None or (is_relay and relayed):
                continue
            session = client.session
            data = encoded.get(session.resp3)
            if data is None:
                data = encoded[session.resp3] = message(session, _MESSAGE_OF[kind], *elements)
            client.push(data)
            self.delivered += 1
            sent += not is_relay
        return sent

    # ---- what there is

    @property
    def patterns(self) -> int:
        """Return the number of patterns to which any client is subscribed."""
        return len(self._globs)

    @property
    def channels(self) -> int:
        """Return the number of channels, without patterns and shard channels."""
        return len(self._by_name["channel"])

    @property
    def subscribers(self) -> int:
        """Return the number of connections with a subscription."""
        return len(self._by_session)

    def active(self, kind: Kind, glob: Glob) -> list[bytes]:
        """Return the names that match, of those to which any client is subscribed."""
        return [name for name in self._by_name[kind] if glob.matches(name)]

    def names(self, kind: Kind) -> list[bytes]:
        """Return the names to which any client is subscribed."""
        return [*self._by_name[kind]]

    def listeners(self, kind: Kind, name: bytes) -> int:
        """Return how many connections are subscribed to a name."""
        return len(self._by_name[kind].get(name, ()))

    def listeners_of(self, channel: bytes, *, shard: bool) -> int:
        """Return how often a message of `channel` would be sent now."""
        if shard:
            return self.listeners("shard", channel)
        patterns = sum(self.listeners("pattern", pattern) for pattern in self.matching(channel))
        return self.listeners("channel", channel) + patterns

    def denied(self, allowed: Callable[[int, Kind, bytes], bool]) -> list[int]:
        """Return the connections, by id, with a subscription that they are not `allowed` to have."""
        return [
            number
            for number, mine in self._by_session.items()
            if any(not allowed(number, kind, name) for kind, names in mine.names.items() for name in names)
        ]
