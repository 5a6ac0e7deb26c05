"""Coordination. The fast path of SET: a value of class `memory`, acknowledged at once.

It is to SET what `plain_gets` is to GET. `Writes` decides whether a SET is of this kind, and does it; here it is
only counted and replied to.
"""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.errors import MilenaError
from milena_common.api.keys import SCHEME
from milena_common.resp.encoding import OK


class PlainSets:
    """The fast path of one connection's SETs."""

    __slots__ = ("_buckets", "_counted", "_now", "_ownership", "_puts", "_writes")

    def __init__(self, context: Context) -> None:
        self._buckets = context.buckets
        self._ownership = context.ownership
        self._writes = context.node.writes
        self._puts = context.calls["put"]
        self._counted = context.stats["set"]
        self._now = context.clock.now

    def serve(self, session: Session, key: bytes, value: bytes, began: float, parts: list[bytes]) -> float:
        """Do the SET and append its reply to `parts`; `began` is when it began, monotonic seconds.

        Return when it was done, in monotonic seconds; 0 if the SET is of another kind, and nothing was done.
        """
        owned_since = self._ownership.mine_since(key)
        if owned_since < 0:
            return 0.0
        # The key of an object of the default bucket is its cache key.
        if not self._writes.overwrite(key, value, owned_since) and not self._remember(key, value, owned_since):
            return 0.0
        puts, counted = self._puts, self._counted
        session.last_command = "set"
        session.commands += 1
        parts.append(OK)
        done = self._now()
        took = done - began
        puts.requests += 1
        puts.durations.observe(took)
        counted.calls += 1
        counted.seconds += took
        return done

    def _remember(self, key: bytes, value: bytes, owned_since: int) -> bool:
        if key.startswith(SCHEME):
            return False
        try:
            target = self._buckets.resolve("", key)
        except MilenaError:
            return False  # the general path replies with the error
        return self._writes.remember(target, value, owned_since)
