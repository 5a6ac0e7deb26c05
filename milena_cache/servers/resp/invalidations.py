"""Coordination. Brings changes of keys to the clients that track them: one push a client in each step of the loop.

Three things change what readers are told: the key itself (`milena_cache.memory.change_feed`), the ring (whoever
owns a slot now may write to it without this node's knowing), and time, for objects that have an end. Nobody would
notice an end while nobody reads, so the objects of tracked keys are looked at once, and their ends are waited for.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from milena_cache.memory.change_feed import ChangeFeed
from milena_cache.memory.lru import Memory
from milena_cache.servers.resp.commands.connection.subscriptions import CHANNEL, message
from milena_cache.servers.resp.state.client_registry import Clients
from milena_cache.servers.resp.state.tracking import EVERYTHING, InvalidatedKeys, Tracking
from milena_cache.writeback.dirty_table import Dirty
from milena_common.resp.encoding import RESP2, RESP3, bulk, null, push
from milena_common.runtime.clock import Clock

# So many keys are looked at in one step of the loop, and the rest after a pause.
MAX_KEYS = 5_000
PAUSE_SECONDS = 0.01
# So many sweeps a second apart; no read takes longer. Of what is not in memory then, nobody would notice a change.
MAX_SWEEPS = 60

# A ring change names so many tracked keys, so many in one step of the loop: a few milliseconds each. With more in
# the table, clients are told to drop everything: the messages would be large, and late for what moved.
MAX_NAMED = 100_000
NAMED_AT_ONCE = 2_000


class Invalidations:
    """What is told to the `clients` of one node."""

    def __init__(
        self,
        tracking: Tracking,
        clients: Clients,
        change_feed: ChangeFeed,
        memory: Memory,
        dirty: Dirty,
        clock: Clock,
    ) -> None:
        self._tracking = tracking
        self._clients = clients
        self._change_feed = change_feed
        self._memory = memory
        self._dirty = dirty
        self._clock = clock
        tracking.wake = self._wake
        change_feed.on_change = self._changed

    def ring_changed(self) -> None:
        """This node lost slots, or gained some: tell of the keys that clients may have from before.

        They are named, since clients are known that drop nothing at a message without keys (coredis 6.9). What is
        read from now on stands behind them in the table and is not told of.
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

    # Ends of objects.

    def sweep(self) -> None:
        """Tell of objects that have ended; to be called every second."""
        if self._tracking.active:
            self._look()
        self._change_feed.due(self._clock.wall())

    def _look(self) -> None:
        fresh = self._tracking.fresh
        looked_at = [*islice(fresh.items(), MAX_KEYS)]
        for key, sweeps in looked_at:
            del fresh[key]
            if not self._is_followed(key):
                if sweeps < MAX_SWEEPS:
                    fresh[key] = sweeps + 1
                else:
                    self._tracking.changed(key)
        if len(looked_at) == MAX_KEYS and fresh:
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._look)

    def _is_followed(self, key: bytes) -> bool:
        """Whether what becomes of the object will be noticed."""
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
                # Without a subscription, or for reads of its own, Redis has no message for such a client either.
                if redirected and client.session.subscribed:
                    client.push(message(client.session, b"message", bulk(CHANNEL), _array(keys, RESP2)))
                continue
            if not pushed or keys != sent_last:
                sent_last = keys
                pushed = push(b"invalidate", _array(keys, RESP3))
            client.push(pushed)

    def _by_connection(self) -> dict[int, tuple[InvalidatedKeys, bool]]:
        """Return what is to be told, by the connection that is told it, and whether any of it was redirected there.

        A client may redirect to itself: so a RESP2 client with one connection says that its keys come as messages.
        """
        gathered: dict[int, tuple[InvalidatedKeys, bool]] = {}
        for number, keys in self._tracking.take().items():
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
