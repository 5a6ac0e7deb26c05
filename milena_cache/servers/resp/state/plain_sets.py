"""Coordination. The fast path of SETs without options: all SETs of a read together, and those of a transaction.

It is to SET what `plain_gets` is to GET. `Writes` decides whether a SET can be acknowledged from memory at once,
and does it; here it is only counted and replied to. The first SET of another kind ends the run, so that effects and
replies stay in order, and goes the general way, which has all errors.

A transaction of nothing else is carried out here too: all of its SETs in one step, or none of them, and then the
general way does it (`commands.data.execution`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from milena_cache.membership.ownership import ELSEWHERE, Ownership
from milena_cache.objects.names import Buckets
from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.statistics.command_stats import CommandCounts
from milena_cache.writes.writer import Writes
from milena_common.api.errors import MilenaError
from milena_common.api.keys import SCHEME
from milena_common.cluster.slots import slot_of
from milena_common.metrics.call_counts import OperationCounts
from milena_common.resp.encoding import OK, QUEUED


class PlainSets:
    """The fast path of one node's SETs."""

    __slots__ = ("_buckets", "_command", "_counted", "_now", "_ownership", "_puts", "_writes")

    def __init__(
        self,
        command: Command[Any],
        buckets: Buckets,
        ownership: Ownership,
        writes: Writes,
        puts: OperationCounts,
        counted: CommandCounts,
        now: Callable[[], float],
    ) -> None:
        """`command` is SET; `puts` and `counted` are the counts of its operation and of itself."""
        self._command = command
        self._buckets = buckets
        self._ownership = ownership
        self._writes = writes
        self._puts = puts
        self._counted = counted
        self._now = now

    def serve(
        self, session: Session, keys: list[bytes], values: list[bytes], began: float, parts: list[bytes]
    ) -> int:
        """Do the first of these SETs, in order, and append their replies to `parts`; return how many.

        `began` is when they began, monotonic seconds. The next one is of another kind, if any is left.
        """
        done = self._serve_one(keys[0], values[0]) if len(keys) == 1 else self._serve_many(keys, values)
        if not done:
            return 0
        session.last_command = "set"
        session.commands += done
        parts.append(OK if done == 1 else OK * done)
        self._count(done, began)
        return done

    def queue(
        self, session: Session, keys: list[bytes], values: list[bytes], began: float, parts: list[bytes]
    ) -> int:
        """Queue the first of these SETs for the client's transaction, and reply as `serve` does; return how many.

        The next one is of another kind, if any is left: the general way queues it, or rejects it.
        """
        transaction = session.transaction
        if transaction is None:
            return 0
        done = self._count_valid(keys, transaction.key)
        if done < len(keys):
            keys, values = keys[:done], values[:done]
        if not done or not transaction.queue_sets(self._command, keys, values):
            return 0
        if not self._ownership.single and not transaction.key:
            transaction.key = keys[0]
        session.last_command = "set"
        session.commands += done
        parts.append(QUEUED * done)
        self._count(done, began)
        return done

    def execute(self, keys: list[bytes], values: list[bytes]) -> bool:
        """Do all of these SETs, which were queued, in one step of the event loop; else none, and False.

        The caller replies, and has seen to it that they are not too many for one step.
        """
        began, ownership, number = self._now(), self._ownership, len(keys)
        if ownership.single:
            since = ownership.since[0]
        else:
            # Looked at again: the ring may have changed since they were queued.
            slot = slot_of(keys[0])
            for key in keys:
                if slot_of(key) != slot:
                    return False
            since = ownership.since[slot]
        if since == ELSEWHERE or not self._writes.remember_all(keys, values, [since] * number):
            return False
        self._count(number, began)
        return True

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
        return self._is_valid(key) and self._writes.remember(key, value, owned_since)

    def _is_valid(self, key: bytes) -> bool:
        """True if the key names an object of the default bucket."""
        if key.startswith(SCHEME):
            return False
        try:
            self._buckets.check_default(key)
        except MilenaError:
            return False  # the general path replies with the error
        return True

    def _count_valid(self, keys: list[bytes], first: bytes) -> int:
        """Return how many of `keys` are valid, this node's, and of one slot: that of `first`, if that is a key.

        The next one is none of these.
        """
        ownership = self._ownership
        single, since = ownership.single, ownership.since
        slot = 0 if single else slot_of(first or keys[0])
        if since[slot] == ELSEWHERE:
            return 0
        number = 0
        for key in keys:
            if not self._is_valid(key) or not (single or slot_of(key) == slot):
                break
            number += 1
        return number

    def _count(self, number: int, began: float) -> None:
        took = self._now() - began
        puts, counted = self._puts, self._counted
        puts.requests += number
        puts.durations.observe_many(took, number)
        counted.calls += number
        counted.seconds += took
