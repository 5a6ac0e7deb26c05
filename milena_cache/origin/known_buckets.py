"""Coordination. The buckets that exist, as far as S3 has said so.

A write that is acknowledged before S3 has it would be retried for ever in a bucket that there is not: a name that a
client has misspelt, where S3_BUCKETS is `*`. So S3 is asked once about each bucket but the default one, which is
checked at the start. If it does not reply, the write is taken like any other while S3 is out of order.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from milena_cache.objects.object_store import Fault, OriginFailure
from milena_common.runtime.clock import Clock

# Names that are known at a time; one more replaces any of them, which is asked about again.
MAX_KNOWN: Final = 10_000
# Names that S3 is asked about at a time; writes to a further one wait for none of it.
MAX_CHECKS: Final = 32
# Seconds that a write waits for S3, and for which a name that S3 did not reply about is not asked about again.
CHECK_SECONDS: Final = 2.0


class Store(Protocol):
    async def check_bucket(self, bucket: str) -> None:
        """Check that the bucket can be used. Raises OriginFailure."""


class KnownBuckets:
    """The buckets of one node. `name in known`: True if writes to it need not ask S3."""

    def __init__(self, store: Store, default: str, clock: Clock) -> None:
        self._store = store
        self._default = default
        self._clock = clock
        self._known = {default}
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._next_check_at: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._known

    async def confirm_exists(self, name: str, deadline: float) -> bool:
        """Return True if the bucket exists, False if that is not known now; raise FailedPrecondition if not.

        `deadline`: monotonic seconds; S3 has CHECK_SECONDS at most.
        """
        if name in self._known:
            return True
        now = self._clock.now()
        check = self._checks.get(name)
        if check is None:
            if len(self._checks) >= MAX_CHECKS or self._next_check_at.get(name, 0.0) > now:
                return False
            # Shared by all writes that come meanwhile, and not ended with the one that began it.
            check = self._checks[name] = asyncio.get_running_loop().create_task(self._store.check_bucket(name))
            check.add_done_callback(lambda _: self._checks.pop(name))
        done, _ = await asyncio.wait((check,), timeout=max(0.0, min(deadline - now, CHECK_SECONDS)))
        if done and not check.cancelled():
            failure = check.exception()
            if failure is None:
                self._learn(name)
                return True
            if isinstance(failure, OriginFailure) and failure.fault is Fault.NO_BUCKET:
                raise failure.as_error()
        if len(self._next_check_at) >= MAX_KNOWN:
            self._next_check_at.clear()
        self._next_check_at[name] = self._clock.now() + CHECK_SECONDS
        return False

    def _learn(self, name: str) -> None:
        self._next_check_at.pop(name, None)
        if len(self._known) >= MAX_KNOWN:
            self._known = {self._default}
        self._known.add(name)
