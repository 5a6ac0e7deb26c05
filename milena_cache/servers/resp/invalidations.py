"""Coordination. Sends invalidations to the clients that track keys: one push for each client in one step of the
event loop.

What a reader gets is changed by three things: a change of the key (`milena_cache.memory.change_feed`), a change of
the ring (the new owner of a slot accepts writes of which this node is not notified), and time, for objects with an
expiry. Without a read no code of the node notices an expiry, so the entry of each tracked key is looked up once,
and its expiry registered with the change feed.

The lookup cannot be made when the key is tracked: the read begins at that time, and its entry comes later. So it is
made by the sweeps after it (`Tracking.fresh`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from itertools import islice

from milena_cache.memory.change_feed import ChangeFeed
from milena_cache.memory.lru import Memory
from milena_cache.servers.resp.state.client_registry import Clients
from milena_cache.servers.resp.state.tracking import EVERYTHING, InvalidatedKeys, Tracking
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
        sent_last: InvalidatedKeys = {}
        pushed = b""
        for target, (keys, redirected) in self._by_connection().items():
            client = self._clients.by_id[target]
            if not client.session.resp3:
                # As in Redis, a RESP2 client gets messages only for reads that are redirected to it, while it
                # subscribes to the channel.
                if redirected and self._channels.gets_invalidations(target):
                    client.push(message(client.session, b"message", bulk(INVALIDATIONS), _array(keys, RESP2)))
                continue
            if not pushed or keys != sent_last:
                sent_last = keys
                pushed = push(b"invalidate", _array(keys, RESP3))
            client.push(pushed)

    def _by_connection(self) -> dict[int, tuple[InvalidatedKeys, bool]]:
        """Return the invalidated keys by the id of the receiving connection, and True if any were redirected to it.

        A client may redirect to itself: that is how a RESP2 client with a single connection gets its invalidations.
        """
        gathered: dict[int, tuple[InvalidatedKeys, bool]] = {}
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
            before, redirected = gathered.setdefault(target, ({}, False))
            both = EVERYTHING if before is EVERYTHING or keys is EVERYTHING else {**before, **keys}
            gathered[target] = both, redirected or bool(follower.options.redirect)
        return gathered


def _array(keys: InvalidatedKeys, protocol: int) -> bytes:
    if keys is EVERYTHING:
        return null(protocol)
    return b"*%d\r\n%b" % (len(keys), b"".join(map(bulk, keys)))
