"""Pure. Which client has read which key, for client-side caching: CLIENT TRACKING, as Redis has it.

In the default mode a client that reads a key is told of the key's next change, once, and has to read it again to
be told of the one after. In BCAST mode it is told of every change of keys with its prefixes, and nothing is
remembered.
What is to be told gathers in `take`, by client: one message for all changes of one step of the event loop.

Nobody keeps a stale value by what is told here, so it may be too much, and never too little:

- A command that waits for S3 may be answered with what was there before a change that was told while it waited.
  Who keeps what such an answer brings would never hear of it; so the key is told once more, after the answer
  (`begin`, `end`).
- NOLOOP spares a client the changes that it makes itself. Which change is whose is not known here, only which
  commands are under way. So a command spares its client one change of its key, none if somebody else writes the
  same key likewise, and if it fails the client is told after all. The client remains on the key's list.
- Beyond `max_keys` the keys that have been in the table for the longest are told as if they had changed.

Clients that have gone stay in the lists of the keys that they have read until those change: their numbers are never
given again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from milena_cache.servers.resp.dispatch.command import Access
from milena_cache.servers.resp.dispatch.session import Session

EVERYTHING = None
InvalidatedKeys = dict[bytes, None] | None  # keys in their order, or EVERYTHING


@dataclass(frozen=True, slots=True)
class Options:
    """What CLIENT TRACKING ON was given. `redirect`: the connection that is told instead, 0 for none."""

    redirect: int = 0
    bcast: bool = False
    prefixes: tuple[bytes, ...] = ()
    optin: bool = False
    optout: bool = False
    noloop: bool = False


class Follower:
    """A client that tracks. `broken`: the connection that should be told is no more."""

    __slots__ = ("broken", "caching", "options", "prefixes", "session", "used")

    def __init__(self, session: Session, options: Options) -> None:
        self.session = session
        self.options = options
        self.prefixes: dict[bytes, None] = {}
        self.broken = False
        # CLIENT CACHING is about the command after it: the number of the one that said so, 0 for none, and of the
        # one that was it.
        self.caching = 0
        self.used = 0

    def wants(self) -> bool:
        """Whether the keys of the command that is being carried out are to be remembered."""
        options = self.options
        if not (options.optin or options.optout):
            return not options.bcast
        number = self.session.commands
        if options.optout:
            return self.caching + 1 != number if self.caching else True
        if self.caching:
            self.caching, self.used = 0, number
        return self.used == number


class Work:
    """A command of a client that tracks, while it is under way. `failed`: it was answered by an error."""

    __slots__ = ("changed", "client", "failed", "keys", "spared", "writes")

    def __init__(self, client: int, keys: list[bytes], *, writes: bool) -> None:
        self.client = client
        self.keys = keys
        self.writes = writes
        self.failed = False
        self.changed: dict[bytes, None] = {}  # told to the client since it began
        self.spared: dict[bytes, None] = {}  # not told to it


class Tracking:
    """The table of one node, for at most `max_keys` keys. `active`: whether any client tracks.

    `wake` is called when there begins to be something to `take`. `fresh` has the keys whose objects' ends nobody
    has looked for since they came into the table, each with how often that was tried.
    """

    def __init__(self, max_keys: int) -> None:
        self.active = False
        self.invalidations = 0
        self.fresh: dict[bytes, int] = {}
        self.wake: Callable[[], None] = _no_wake
        self._max_keys = max_keys
        self._followers: dict[int, Follower] = {}
        self._keys: OrderedDict[bytes, int | set[int]] = OrderedDict()
        self._prefixes: dict[bytes, set[int]] = {}
        self._pending: dict[int, InvalidatedKeys] = {}
        self._reading: dict[bytes, list[Work]] = {}
        self._writing: dict[bytes, list[Work]] = {}

    @property
    def keys(self) -> int:
        """How many keys are in the table."""
        return len(self._keys)

    @property
    def clients(self) -> int:
        """How many clients track."""
        return len(self._followers)

    @property
    def prefixes(self) -> int:
        """How many prefixes are followed."""
        return len(self._prefixes)

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def of(self, client: int) -> Follower | None:
        return self._followers.get(client)

    def selects(self, client: int) -> bool:
        """Whether the client says by CLIENT CACHING which of its commands are about keys to be remembered."""
        follower = self._followers.get(client)
        return follower is not None and (follower.options.optin or follower.options.optout)

    # Who tracks.

    def follow(self, session: Session, options: Options) -> None:
        """Begin to track, or go on with other options; prefixes add up."""
        follower = self._followers.get(session.id)
        if follower is None:
            follower = self._followers[session.id] = Follower(session, options)
        follower.options = options
        follower.broken = False
        if options.bcast:
            for prefix in options.prefixes or (b"",):
                follower.prefixes[prefix] = None
                self._prefixes.setdefault(prefix, set()).add(session.id)
        session.tracking = self.active = True

    def stop(self, client: int) -> None:
        """A client tracks no more."""
        follower = self._followers.pop(client, None)
        if follower is None:
            return
        follower.session.tracking = False
        self._pending.pop(client, None)
        for prefix in follower.prefixes:
            clients = self._prefixes[prefix]
            clients.discard(client)
            if not clients:
                del self._prefixes[prefix]
        if not self._followers:
            self.active = False
            self._keys.clear()
            self.fresh.clear()

    # What is read and written.

    def track(self, client: int, key: bytes) -> None:
        """A client begins to read `key`: to be called before it is known what the answer is."""
        follower = self._followers.get(client)
        if follower is None or not follower.wants():
            return
        readers = self._keys.get(key)
        if readers is None:
            self._keys[key] = client
            self.fresh[key] = 0
            if len(self._keys) > self._max_keys:
                self._notify_all(next(iter(self._keys)), spared=0)
        elif isinstance(readers, set):
            readers.add(client)
        elif readers != client:
            self._keys[key] = {readers, client}

    def begin(self, client: int, access: Access, keys: list[bytes]) -> Work | None:
        """A command of a client that tracks begins. What this returns goes to `end`; None if nothing has to."""
        follower = self._followers.get(client)
        if follower is None or access == "none" or not keys:
            return None
        writes = access != "read"
        if writes and not follower.options.noloop:
            return None
        work = Work(client, keys, writes=writes)
        commands = self._writing if writes else self._reading
        for key in keys:
            commands.setdefault(key, []).append(work)
        return work

    def end(self, work: Work) -> None:
        """The command's answer is on its way."""
        commands = self._writing if work.writes else self._reading
        for key in dict.fromkeys(work.keys):
            others = [each for each in commands[key] if each is not work]
            if others:
                commands[key] = others
            else:
                del commands[key]
        follower = self._followers.get(work.client)
        if follower is not None:
            for key in {**work.changed, **(work.spared if work.failed else {})}:
                self._notify(follower, key)

    # What changes.

    def changed(self, key: bytes) -> None:
        """What readers are told of `key` may be another thing from now on."""
        if key in self._keys or self._prefixes:
            self._notify_all(key, self._spared(key))

    def _notify_all(self, key: bytes, spared: int) -> None:
        readers = self._keys.pop(key, None)
        self.fresh.pop(key, None)
        clients: Iterable[int] = readers if isinstance(readers, set) else () if readers is None else (readers,)
        if self._prefixes:
            clients = {*clients, *self._broadcast(key)}
        for client in clients:
            follower = self._followers.get(client)
            if follower is None:
                continue
            if client == spared:
                if not follower.options.bcast:
                    self._keys[key] = client
                    self.fresh[key] = 0
                continue
            for work in (*self._reading.get(key, ()), *self._writing.get(key, ())):
                if work.client == client:
                    work.changed[key] = None
            self._notify(follower, key)

    def _broadcast(self, key: bytes) -> set[int]:
        found: set[int] = set()
        for prefix, clients in self._prefixes.items():
            if key.startswith(prefix):
                found |= clients
        return found

    def _spared(self, key: bytes) -> int:
        """The client that is taken for the one that makes this change itself; 0 if there is none."""
        works = self._writing.get(key)
        if works is None or len(works) > 1 or key in works[0].spared:
            # Of several it is not known which it is; then each is told of all that follows.
            for work in works or ():
                work.spared[key] = None
            return 0
        works[0].spared[key] = None
        return works[0].client

    def name_oldest(self, number: int) -> None:
        """Tell of the `number` keys that have been in the table for the longest, as if they had changed."""
        for key in [*islice(self._keys, number)]:
            self._notify_all(key, spared=0)

    def flush_unnamed(self) -> None:
        """Any key may have changed; tell those of whose keys nothing is known: they follow prefixes."""
        followers = [client for client, follower in self._followers.items() if follower.options.bcast]
        for client in followers:
            self._wake_once(client)
            self._pending[client] = EVERYTHING
        self.invalidations += len(followers)

    def flush_all(self) -> None:
        """Any key may have changed."""
        self._keys.clear()
        self.fresh.clear()
        for works in self._reading.values():
            for work in works:
                work.changed.update(dict.fromkeys(work.keys))
        for client in self._followers:
            self._wake_once(client)
            self._pending[client] = EVERYTHING
        self.invalidations += len(self._followers)

    def _notify(self, follower: Follower, key: bytes) -> None:
        client = follower.session.id
        self._wake_once(client)
        pending = self._pending.setdefault(client, {})
        if pending is not EVERYTHING and key not in pending:
            pending[key] = None
            self.invalidations += 1

    def _wake_once(self, client: int) -> None:
        if not self._pending:
            self.wake()

    def take(self) -> dict[int, InvalidatedKeys]:
        """What is to be told, by client, to be sent now."""
        pending, self._pending = self._pending, {}
        return pending


def _no_wake() -> None:
    """Nobody is to be woken."""
