"""Pure. The table of tracked keys for client-side caching: CLIENT TRACKING, as Redis has it.

In the default mode a client that reads a key is notified of the key's next change, once, and must read the key
again to be notified of the one after. In BCAST mode it is notified of every change of keys with its prefixes, and
its reads are not recorded. Notifications collect by client until `take`: one message for all changes of one step of
the event loop.

Invariant: a client may be notified without need, but never too little, since a missed notification leaves a stale
value in its cache permanently. Three interleavings decide how this is done:

- A read that waits for S3. A key is recorded when the read begins (`track`), not when its reply is sent: a change
  in between would find no reader. That is not enough: (1) a GET of k waits for S3; (2) k changes, and the client is
  notified, which removes it from the list; (3) the reply of the GET has the value from before the change, and the
  client caches it after the notification. So the commands in flight are kept (`begin`), and `end` notifies once
  more, behind the reply, of keys that changed in between.
- NOLOOP, by which a client is not notified of its own changes. A change does not name the command that made it;
  only the commands in flight are known. Sparing the client while its SET is in flight would be wrong: (1) clients A
  and B both SET k; (2) the changes come in either order, and A would miss that of B. So a command spares its client
  one change of the key, and none while another NOLOOP command writes the same key. If the command fails, the spared
  change was made by another client, and `end` notifies of it. The client stays on the key's list.
- More than `max_keys` keys. The keys that were recorded first are dropped from the table, and their clients
  notified as if they had changed: dropped without that, their later changes would not be noticed.

Clients that have disconnected stay on the lists of their keys until those change. Their ids are never used again,
so no other client gets their notifications.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from milena_cache.servers.resp.dispatch.session import Session
from milena_common.cluster.slots import slot_of
from milena_common.resp.command_ordering import Access

# In place of keys: the client is to drop its whole cache.
EVERYTHING = None
InvalidatedKeys = dict[bytes, None] | None  # keys in the order of their changes, or EVERYTHING


@dataclass(frozen=True, slots=True)
class Options:
    """The options of CLIENT TRACKING ON.

    redirect: id of the connection that gets the invalidations; 0: the client itself
    bcast: invalidations by prefix, whether or not the client has read the key
    prefixes: of BCAST; empty: all keys
    optin: only the command after CLIENT CACHING YES is tracked
    optout: all commands are tracked but the one after CLIENT CACHING NO
    noloop: the client's own changes are not sent to it
    """

    redirect: int = 0
    bcast: bool = False
    prefixes: tuple[bytes, ...] = ()
    optin: bool = False
    optout: bool = False
    noloop: bool = False


class Follower:
    """A client that tracks.

    prefixes: those that it follows in BCAST mode
    broken: True if the connection to which it redirects has closed
    caching, used: the command that CLIENT CACHING applies to, see `wants`
    """

    __slots__ = ("broken", "caching", "options", "prefixes", "session", "used")

    def __init__(self, session: Session, options: Options) -> None:
        self.session = session
        self.options = options
        self.prefixes: dict[bytes, None] = {}
        self.broken = False
        # CLIENT CACHING applies to the command after it. Both are values of `Session.commands`: of the last CLIENT
        # CACHING command (0: none), and, with OPTIN, of the command to which it applied.
        self.caching = 0
        self.used = 0

    def wants(self) -> bool:
        """True if the keys of the command that is running are to be tracked."""
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
    """A command in flight of a client that tracks.

    client: the client's id
    keys: the command's cache keys
    writes: True if it is kept for NOLOOP, False if for a read
    failed: True if its reply is an error
    changed: keys of which the client was notified since the command began
    spared: keys for which the client's one exemption by NOLOOP is used up
    """

    __slots__ = ("changed", "client", "failed", "keys", "spared", "writes")

    def __init__(self, client: int, keys: list[bytes], *, writes: bool) -> None:
        self.client = client
        self.keys = keys
        self.writes = writes
        self.failed = False
        self.changed: dict[bytes, None] = {}
        self.spared: dict[bytes, None] = {}


class Tracking:
    """The table of one node, for at most `max_keys` keys.

    active: True if any client tracks
    invalidations: how many notifications were collected since the start
    fresh: keys whose expiry has not been looked up since they were recorded, with the number of attempts
    wake: called when `take` begins to have something to return
    may_see: True if a client may learn of a key, for BCAST, where it has read none
    """

    def __init__(self, max_keys: int) -> None:
        self.active = False
        self.invalidations = 0
        self.fresh: dict[bytes, int] = {}
        self.wake: Callable[[], None] = _no_wake
        self.may_see: Callable[[Session, bytes], bool] = _sees_all
        self._max_keys = max_keys
        self._followers: dict[int, Follower] = {}
        self._keys: OrderedDict[bytes, int | set[int]] = OrderedDict()
        self._by_slot: dict[int, set[bytes]] = {}
        self._prefixes: dict[bytes, set[int]] = {}
        self._pending: dict[int, InvalidatedKeys] = {}
        self._reading: dict[bytes, list[Work]] = {}
        self._writing: dict[bytes, list[Work]] = {}

    @property
    def keys(self) -> int:
        """Return how many keys are in the table."""
        return len(self._keys)

    @property
    def clients(self) -> int:
        """Return how many clients track."""
        return len(self._followers)

    @property
    def prefixes(self) -> int:
        """Return how many prefixes are followed."""
        return len(self._prefixes)

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def of(self, client: int) -> Follower | None:
        return self._followers.get(client)

    def selects(self, client: int) -> bool:
        """True if the client selects the commands to be tracked by CLIENT CACHING (OPTIN or OPTOUT)."""
        follower = self._followers.get(client)
        return follower is not None and (follower.options.optin or follower.options.optout)

    # Clients.

    def follow(self, session: Session, options: Options) -> None:
        """Begin to track for a client, or change its options; its prefixes add up, as in Redis."""
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

    def stop_tracking(self, client: int) -> None:
        """Stop tracking for a client; without any client left the table is cleared."""
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
            self._by_slot.clear()
            self.fresh.clear()

    # Commands.

    def track(self, client: int, key: bytes) -> None:
        """Record that a client reads `key`; to be called when the read begins, before its reply is known."""
        follower = self._followers.get(client)
        if follower is None or not follower.wants():
            return
        readers = self._keys.get(key)
        if readers is None:
            self._record(key, client)
            if len(self._keys) > self._max_keys:
                self._notify_all(next(iter(self._keys)), spared=0)
        elif isinstance(readers, set):
            readers.add(client)
        elif readers != client:
            self._keys[key] = {readers, client}

    def _record(self, key: bytes, client: int) -> None:
        self._keys[key] = client
        self._by_slot.setdefault(slot_of(key), set()).add(key)
        self.fresh[key] = 0

    def begin(self, client: int, access: Access, keys: list[bytes]) -> Work | None:
        """Record a command that begins, and return it for `end`; None if there is nothing to record.

        Reads are recorded for every client that tracks, writes only with NOLOOP.
        """
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
        """Remove a command whose reply is in the output, and notify of what changed while it was in flight."""
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

    # Changes.

    def changed(self, key: bytes) -> None:
        """Notify the clients that track `key` that its next read may return something else."""
        if key in self._keys or self._prefixes:
            self._notify_all(key, self._spared(key))

    def _notify_all(self, key: bytes, spared: int) -> None:
        readers = self._keys.pop(key, None)
        if readers is not None:
            of_slot = self._by_slot[slot := slot_of(key)]
            of_slot.discard(key)
            if not of_slot:
                del self._by_slot[slot]
        self.fresh.pop(key, None)
        clients: Iterable[int] = readers if isinstance(readers, set) else () if readers is None else (readers,)
        if self._prefixes:
            clients = {*clients, *self._broadcast(key)}
        for client in clients:
            follower = self._followers.get(client)
            if follower is None:
                continue
            if client == spared:
                # It stays on the list: the exemption is for this change alone, and later ones may be of other
                # clients.
                if not follower.options.bcast:
                    self._record(key, client)
                continue
            # Commands in flight may reply with the value from before this change, behind this notification: `end`
            # repeats it.
            for work in (*self._reading.get(key, ()), *self._writing.get(key, ())):
                if work.client == client:
                    work.changed[key] = None
            self._notify(follower, key)

    def _broadcast(self, key: bytes) -> set[int]:
        found: set[int] = set()
        for prefix, clients in self._prefixes.items():
            if key.startswith(prefix):
                found |= clients
        return {client for client in found if self.may_see(self._followers[client].session, key)}

    def _spared(self, key: bytes) -> int:
        """Return the client that is taken for the author of this change; 0 if there is none."""
        works = self._writing.get(key)
        if works is None or len(works) > 1 or key in works[0].spared:
            # With several commands the author is not known, now or at the next change: no client is spared any
            # more.
            for work in works or ():
                work.spared[key] = None
            return 0
        works[0].spared[key] = None
        return works[0].client

    def name_oldest(self, number: int) -> None:
        """Notify of the `number` keys that were recorded first, as if they had changed."""
        for key in [*islice(self._keys, number)]:
            self._notify_all(key, spared=0)

    def keys_of(self, slots: Iterable[int]) -> list[bytes]:
        """Return the keys of `slots` that are in the table."""
        return [key for slot in slots for key in self._by_slot.get(slot, ())]

    def name_keys(self, keys: Iterable[bytes]) -> None:
        """Notify of `keys` as if they had changed."""
        for key in keys:
            self._notify_all(key, spared=0)

    def flush_unnamed(self) -> None:
        """Have the clients in BCAST mode drop everything: any key may have changed, and theirs are not recorded."""
        followers = [client for client, follower in self._followers.items() if follower.options.bcast]
        for client in followers:
            self._wake_once(client)
            self._pending[client] = EVERYTHING
        self.invalidations += len(followers)

    def flush_all(self) -> None:
        """Have all clients drop everything, because any key may have changed."""
        self._keys.clear()
        self._by_slot.clear()
        self.fresh.clear()
        # Reads in flight may still reply with old values, behind this notification: `end` notifies of them.
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

    def take_invalidated(self) -> dict[int, InvalidatedKeys]:
        """Return the collected notifications by client id, and begin anew."""
        pending, self._pending = self._pending, {}
        return pending


def _sees_all(session: Session, key: bytes) -> bool:
    """Return True; in place of `Tracking.may_see` until it is set."""
    return True


def _no_wake() -> None:
    """Do nothing; in place of `Tracking.wake` until it is set."""
