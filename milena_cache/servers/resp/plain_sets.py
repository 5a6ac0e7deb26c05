"""Coordination. The fast path of SETs: values of class `memory`, acknowledged at once, all SETs of a read together.

It is to SET what `plain_gets` is to GET. `Writes` decides whether a SET is of this kind, and does it; here it is
only counted and replied to. The first SET of another kind ends the run, so that effects and replies stay in order.
"""

from __future__ import annotations

from milena_cache.membership.ownership import ELSEWHERE
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.errors import MilenaError
from milena_common.api.keys import SCHEME
from milena_common.cluster.slots import slot_of
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

    def serve(
        self, session: Session, keys: list[bytes], values: list[bytes], began: float, parts: list[bytes]
    ) -> int:
        """Do the first of these SETs, in order, and append their replies to `parts`; return how many.

        `began` is when they began, monotonic seconds. The next one is of another kind, if any is left.
        """
        done = self._serve_one(keys[0], values[0]) if len(keys) == 1 else self._serve_many(keys, values)
        if not done:
            return 0
        puts, counted = self._puts, self._counted
        session.last_command = "set"
        session.commands += done
        parts.append(OK if done == 1 else OK * done)
        took = self._now() - began
        puts.requests += done
        puts.durations.observe_many(took, done)
        counted.calls += done
        counted.seconds += took
        return done

    # The key of an object of the default bucket is its cache key.

    def _serve_one(self, key: bytes, value: bytes) -> bool:
        owned_since = self._ownership.mine_since(key)
        return owned_since != ELSEWHERE and (
            self._writes.overwrite(key, value, owned_since) or self._remember(key, value, owned_since)
        )

    def _serve_many(self, keys: list[bytes], values: list[bytes]) -> int:
        ownership = self._ownership
        since = ownership.since
        owned_since = [since[0]] * len(keys) if ownership.single else [since[slot_of(key)] for key in keys]
        if ELSEWHERE in owned_since:
            here = owned_since.index(ELSEWHERE)
            keys, values, owned_since = keys[:here], values[:here], owned_since[:here]
        done, number = 0, len(keys)
        while done < number:
            some = self._writes.overwrite_many(keys, values, owned_since, done)
            if not some and not self._remember(keys[done], values[done], owned_since[done]):
                break
            done += some or 1
        return done

    def _remember(self, key: bytes, value: bytes, owned_since: int) -> bool:
        if key.startswith(SCHEME):
            return False
        try:
            self._buckets.check_default(key)
        except MilenaError:
            return False  # the general path replies with the error
        return self._writes.remember(key, value, owned_since)
