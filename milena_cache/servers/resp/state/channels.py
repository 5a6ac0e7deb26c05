"""Pure. Publish/subscribe: which connections of this node get which messages.

A message is delivered at most once, and only to those that are subscribed when it arrives here. It is handed to the
connection at once: what a client does not read counts as unsent bytes, and a client with too many of them is
disconnected (`Client.push`). A connection's subscriptions are bounded by MAX_BYTES.

Shard channels (SSUBSCRIBE) have a space of names of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.client_registry import Clients
from milena_common.access.glob import Glob
from milena_common.resp.encoding import bulk, push
from milena_common.resp.redis_replies import CommandError

# On this channel a RESP2 client gets the invalidations of CLIENT TRACKING ON REDIRECT; it always exists.
INVALIDATIONS: Final = b"__redis__:invalidate"
# Bytes of the names of one connection's subscriptions, with NAME_BYTES for each.
MAX_BYTES: Final = 4 * 2**20
NAME_BYTES: Final = 100

Kind = Literal["channel", "pattern", "shard"]


def message(session: Session, kind: bytes, *elements: bytes) -> bytes:
    """Return a publish/subscribe message in the session's protocol; `elements` are encoded already."""
    if session.resp3:
        return push(kind, *elements)
    return b"*%d\r\n%b%b" % (1 + len(elements), bulk(kind), b"".join(elements))


class _Subscriptions:
    """Those of one connection: names by kind, and their bytes."""

    __slots__ = ("bytes", "names", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.names: dict[Kind, dict[bytes, None]] = {"channel": {}, "pattern": {}, "shard": {}}
        self.bytes = 0

    @property
    def empty(self) -> bool:
        return not any(self.names.values())


class Channels:
    """The subscriptions of the clients of one node.

    published: messages published by clients of this node; delivered: those that were sent to subscribers
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._by_session: dict[int, _Subscriptions] = {}
        # By kind, the connections that are subscribed to a name.
        self._by_name: dict[Kind, dict[bytes, dict[int, None]]] = {"channel": {}, "pattern": {}, "shard": {}}
        self._globs: dict[bytes, Glob] = {}  # of the patterns
        self.published = 0
        self.delivered = 0

    # ---- subscriptions

    def subscribe(self, session: Session, kind: Kind, name: bytes) -> int:
        """Subscribe a connection, and return how many subscriptions of this sort it has then.

        Raises CommandError over MAX_BYTES, and InvalidRequest for a pattern that is too long.
        """
        mine = self._by_session.get(session.id)
        if mine is None:
            mine = _Subscriptions(session)
        if name not in mine.names[kind]:
            size = len(name) + NAME_BYTES
            if mine.bytes + size > MAX_BYTES:
                raise CommandError(
                    f"ERR the names of this connection's subscriptions have more than {MAX_BYTES} bytes; nothing "
                    f"was subscribed to beyond them"
                )
            if kind == "pattern" and name not in self._globs:
                self._globs[name] = Glob(name)
            mine.bytes += size
            mine.names[kind][name] = None
            self._by_name[kind].setdefault(name, {})[session.id] = None
            self._by_session[session.id] = mine
            session.subscribed = True
        return self._number(mine, kind)

    def unsubscribe(self, session: Session, kind: Kind, name: bytes) -> int:
        """End a subscription, if there is one; return how many of this sort are left."""
        mine = self._by_session.get(session.id)
        if mine is None:
            return 0
        if name in mine.names[kind]:
            del mine.names[kind][name]
            mine.bytes -= len(name) + NAME_BYTES
            self._drop(session.id, kind, name)
            if mine.empty:
                del self._by_session[session.id]
                session.subscribed = False
        return self._number(mine, kind)

    def end_all(self, session: Session) -> None:
        """End all subscriptions of a connection."""
        mine = self._by_session.pop(session.id, None)
        if mine is None:
            return
        for kind, names in mine.names.items():
            for name in names:
                self._drop(session.id, kind, name)
        session.subscribed = False

    def _drop(self, number: int, kind: Kind, name: bytes) -> None:
        listeners = self._by_name[kind][name]
        del listeners[number]
        if not listeners:
            del self._by_name[kind][name]
            if kind == "pattern":
                del self._globs[name]

    def _number(self, mine: _Subscriptions, kind: Kind) -> int:
        names = mine.names
        return len(names["shard"]) if kind == "shard" else len(names["channel"]) + len(names["pattern"])

    def names_of(self, session: Session, kind: Kind) -> list[bytes]:
        """Return the names to which a connection is subscribed."""
        mine = self._by_session.get(session.id)
        return [] if mine is None else [*mine.names[kind]]

    def number_of(self, session: Session, kind: Kind) -> int:
        """Return how many subscriptions of the sort of `kind` a connection has, as its replies tell."""
        mine = self._by_session.get(session.id)
        return 0 if mine is None else self._number(mine, kind)

    def gets_invalidations(self, number: int) -> bool:
        """True if the connection is subscribed to the channel of invalidations."""
        return number in self._by_name["channel"].get(INVALIDATIONS, ())

    # ---- messages

    def deliver(self, channel: bytes, payload: bytes, *, shard: bool = False) -> int:
        """Send a message to all who are subscribed to its channel here; return how often it was sent."""
        kind: Kind = "shard" if shard else "channel"
        word = b"smessage" if shard else b"message"
        sent = 0
        listeners = self._by_name[kind].get(channel)
        if listeners:
            sent += self._send(listeners, word, bulk(channel), bulk(payload))
        if not shard and self._globs:
            for pattern, glob in tuple(self._globs.items()):
                if glob.matches(channel):
                    by_pattern = self._by_name["pattern"].get(pattern, {})
                    sent += self._send(by_pattern, b"pmessage", bulk(pattern), bulk(channel), bulk(payload))
        self.delivered += sent
        return sent

    def _send(self, listeners: Iterable[int], word: bytes, *elements: bytes) -> int:
        encoded: dict[bool, bytes] = {}
        sent = 0
        for number in tuple(listeners):  # a push may end a connection, and with it its subscriptions
            client = self._clients.by_id.get(number)
            if client is None:
                continue
            session = client.session
            data = encoded.get(session.resp3)
            if data is None:
                data = encoded[session.resp3] = message(session, word, *elements)
            client.push(data)
            sent += 1
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

    def listeners(self, kind: Kind, name: bytes) -> int:
        """Return how many connections are subscribed to a name."""
        return len(self._by_name[kind].get(name, ()))

    def denied(self, allowed: Callable[[Session, Kind, bytes], bool]) -> list[int]:
        """Return the connections with a subscription that they are not `allowed` to have."""
        return [
            number
            for number, mine in self._by_session.items()
            if any(not allowed(mine.session, kind, name) for kind, names in mine.names.items() for name in names)
        ]
