"""Coordination. Sends invalidations to the clients that track keys, in the form of Redis: those of one step of the
event loop together.

What a reader gets is changed by three things: a change of the key (`milena_cache.memory.change_feed`), a change of
the ring (the new owner of a slot accepts writes of which this node is not notified), and time, for objects with an
expiry. Without a read no code of the node notices an expiry, so the entry of each tracked key is looked up once,
and its expiry registered with the change feed.

The lookup cannot be made when the key is tracked: the read begins at that time, and its entry comes later. So it is
made by the sweeps after it (`Tracking.fresh`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from itertools import islice

from milena_cache.memory.change_feed import ChangeFeed
from milena_cache.memory.lru import Memory
from milena_cache.servers.resp.state.client_registry import Clients
from milena_cache.servers.resp.state.tracking import EVERYTHING, Follower, InvalidatedKeys, Tracking
from milena_cache.writeback.dirty_table import Dirty
from milena_common.pubsub.channels import INVALIDATIONS, Channels, message
from milena_common.resp.encoding import RESP2, RESP3, bulk, null, push
from milena_common.runtime.clock import Clock

# Keys that are looked up in one step of the event loop; the rest follows after a pause.
MAX_KEYS = 5_000
PAUSE_SECONDS = 0.01
# Sweeps, one second apart, in which a key is looked up until it has an entry; no read takes longer. A key without
# an entry after that is invalidated, since its expiry would not be noticed.
MAX_SWEEPS = 60

# After a ring change at most this many tracked keys are invalidated by name, in steps of a few milliseconds each.
# With more in the table clients are made to drop everything: the messages would be large, and late for what moved.
MAX_NAMED = 100_000
NAMED_AT_ONCE = 2_000

# Up to so many keys that are invalidated in one step of the event loop have a message each.
MAX_ALONE = 32


class Invalidations:
    """The invalidations for the `clients` of one node."""

    def __init__(
        self,
        tracking: Tracking,
        clients: Clients,
        channels: Channels,
        change_feed: ChangeFeed,
        memory: Memory,
        dirty: Dirty,
        clock: Clock,
    ) -> None:
        self._tracking = tracking
        self._clients = clients
        self._channels = channels
        self._change_feed = change_feed
        self._memory = memory
        self._dirty = dirty
        self._clock = clock
        tracking.wake = self._wake
        change_feed.on_change = self._changed
        change_feed.is_needed = lambda: tracking.active

    def slots_changed(self, slots: Collection[int]) -> None:
        """Invalidate the keys of `slots`, which this node has lost, stopped or gained.

        Clients in BCAST mode drop everything, since their keys are not recorded.
        """
        if not self._tracking.active or not slots:
            return
        keys = self._tracking.keys_of(slots)
        if len(keys) > MAX_NAMED:
            self._tracking.flush_all()
        else:
            self._tracking.flush_unnamed()
            self._name_keys(keys)

    def _name_keys(self, keys: list[bytes]) -> None:
        self._tracking.name_keys(keys[:NAMED_AT_ONCE])
        if len(keys) > NAMED_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._name_keys, keys[NAMED_AT_ONCE:])

    def fence_changed(self) -> None:
        """Invalidate all keys that clients may have cached before this node lost or gained all its slots.

        By name, since there are clients that drop nothing at a message without keys (coredis 6.9). The number is
        fixed here: keys that are read from now on go to the end of the table, behind those, and stay.
        """
        if not self._tracking.active:
            return
        if self._tracking.keys > MAX_NAMED:
            self._tracking.flush_all()
        else:
            self._tracking.flush_unnamed()
            self._name(self._tracking.keys)

    def _name(self, left: int) -> None:
        self._tracking.name_oldest(min(left, NAMED_AT_ONCE))
        if left > NAMED_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._name, left - NAMED_AT_ONCE)

    def _changed(self, key: bytes) -> None:
        if self._tracking.active:
            self._tracking.changed(key)

    # Expiry.

    def sweep(self) -> None:
        """Notify of objects that have expired, and look up keys that were tracked lately; call it every second."""
        if self._tracking.active:
            self._look()
        self._change_feed.due(self._clock.wall())

    def _look(self) -> None:
        fresh = self._tracking.fresh
        looked_at = [*islice(fresh.items(), MAX_KEYS)]
        for key, sweeps in looked_at:
            # Removed first, and added at the end again if necessary: a key that is never found must not keep the
            # keys behind it from being looked up.
            del fresh[key]
            if not self._is_followed(key):
                if sweeps < MAX_SWEEPS:
                    fresh[key] = sweeps + 1
                else:
                    self._tracking.changed(key)
        if len(looked_at) == MAX_KEYS and fresh:
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._look)

    def _is_followed(self, key: bytes) -> bool:
        """True if every change of the object will be noticed: it has an entry, and an expiry is registered."""
        # In the order in which reads look them up: the expiry must be that of the value that readers got.
        entry = self._dirty.get(key) or self._memory.get(key)
        if entry is None:
            return False
        return not entry.expires_at or self._change_feed.expect_expiry(key, entry.expires_at)

    # Sending.

    def _wake(self) -> None:
        asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        pushed: dict[tuple[bytes, ...], bytes] = {}
        for number, keys in self._tracking.take_invalidated().items():
            follower = self._tracking.of(number)
            if follower is None or number not in self._clients.by_id:
                continue
            target = follower.options.redirect or number
            if target not in self._clients.by_id:
                follower.broken = True
                if follower.session.resp3:
                    self._clients.by_id[number].push(push(b"tracking-redir-broken", b":%d\r\n" % target))
                continue
            client = self._clients.by_id[target]
            if client.session.resp3:
                for some in _messages(follower, keys):
                    named = () if some is EVERYTHING else tuple(some)
                    if named not in pushed:
                        pushed[named] = push(b"invalidate", _array(some, RESP3))
                    client.push(pushed[named])
            # As in Redis, a RESP2 client gets messages only for reads that are redirected to it, and while it is
            # subscribed to the channel. It may redirect to itself: so a client with one connection gets them.
            elif follower.options.redirect and self._channels.gets_invalidations(target):
                for some in _messages(follower, keys):
                    client.push(message(client.session, b"message", bulk(INVALIDATIONS), _array(some, RESP2)))


def _messages(follower: Follower, keys: InvalidatedKeys) -> Iterator[InvalidatedKeys]:
    """Yield the keys of each message: as in Redis one for each prefix with BCAST, else for each key.

    With more than MAX_ALONE keys all are in one: a change of the ring invalidates very many.
    """
    if keys is EVERYTHING or len(keys) > MAX_ALONE:
        yield keys
    elif follower.options.bcast:
        by_prefix: dict[bytes | None, dict[bytes, None]] = {}
        for key in keys:
            # Prefixes do not overlap. A key without one was read before the client switched to BCAST.
            prefix = next((each for each in follower.prefixes if key.startswith(each)), None)
            by_prefix.setdefault(prefix, {})[key] = None
        yield from by_prefix.values()
    else:
        for key in keys:
            yield {key: None}


def _array(keys: InvalidatedKeys, protocol: int) -> bytes:
    if keys is EVERYTHING:
        return null(protocol)
    return b"*%d\r\n%b" % (len(keys), b"".join(map(bulk, keys)))
