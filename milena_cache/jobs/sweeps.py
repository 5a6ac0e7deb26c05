"""Coordination. The sweeps of a node, each at its place between two parts of it.

A caller requests one part after the other, by the job's name. So a job advances only while its caller is there, at
the rate of its requests, and is cancelled by requesting no more. What is kept of a job that nothing continues is
dropped after IDLE_SECONDS: a walk at its place keeps the keys that were evicted before it came to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from milena_cache.jobs.sweep import ACTIONS, Plan, Sweep, Swept
from milena_common.api.errors import FailedPrecondition, InvalidRequest, Overloaded
from milena_common.runtime.clock import Clock

# Jobs at a time, and seconds after which one that is not continued is dropped.
MAX_JOBS = 8
IDLE_SECONDS = 60.0
NAME_DIGITS = 32
_HEX = frozenset("0123456789abcdef")

# Entries that one part changes at most, as its default and as its limit, and those that it examines.
DEFAULT_CHANGED = 10_000
MAX_CHANGED = 100_000
MAX_EXAMINED = 200_000


class _Job:
    """A sweep, when its last part ended (monotonic seconds), and how many callers wait for a part."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.used_at = 0.0
        self.active = 0


class Sweeps:
    """The sweeps of one node. `begin` returns a new one; it raises InvalidRequest or AccessDenied."""

    def __init__(self, begin: Callable[[Plan], Sweep], clock: Clock) -> None:
        self._begin = begin
        self._clock = clock
        self._jobs: dict[str, _Job] = {}
        self._dropping: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    async def advance(self, name: str, plan: Plan, limit: int) -> Swept:
        """Do the next part of a job, which begins with the first one, and return how far it is.

        It ends with at least `limit` entries changed (0: DEFAULT_CHANGED), MAX_EXAMINED examined, or the job. A
        repeated call does the next part too: the counts are since the job began. Raises InvalidRequest for a plan
        that is another one than before, Overloaded if there are MAX_JOBS others, and FailedPrecondition if no more
        can be pinned; then the job is forgotten.
        """
        if len(name) != NAME_DIGITS or not _HEX.issuperset(name):
            raise InvalidRequest(f"job: got {name[:80]!r}; allowed are {NAME_DIGITS} hexadecimal digits")
        if plan.action not in ACTIONS:
            raise InvalidRequest(f"action: got {plan.action[:80]!r}; allowed: {', '.join(ACTIONS)}")
        if limit > MAX_CHANGED:
            raise InvalidRequest(f"limit: got {limit}; allowed are at most {MAX_CHANGED}")
        job = self._jobs.get(name) or self._new(name, plan)
        if job.sweep.plan != plan:
            raise InvalidRequest("job: there is one of this name with another action, bucket or prefix")
        job.active += 1
        try:
            return await _part(job.sweep, limit or DEFAULT_CHANGED)
        except FailedPrecondition:
            self.forget(name)
            raise
        finally:
            job.active -= 1
            job.used_at = self._clock.now()

    def forget(self, name: str) -> None:
        """Forget a job, at its end or where it is; no effect if there is none of this name."""
        self._jobs.pop(name, None)

    def _new(self, name: str, plan: Plan) -> _Job:
        if len(self._jobs) >= MAX_JOBS:
            raise Overloaded(
                f"{MAX_JOBS} jobs are in progress at this node; nothing was done: one that its caller has left is "
                f"dropped after {IDLE_SECONDS:g} s",
                retry_after=1.0,
            )
        job = self._jobs[name] = _Job(self._begin(plan))
        if self._dropping is None or self._dropping.done():
            self._dropping = asyncio.get_running_loop().create_task(self._drop_idle())
        return job

    async def _drop_idle(self) -> None:
        """Drop jobs that are not continued, while there are any."""
        while self._jobs:
            await self._clock.sleep(IDLE_SECONDS / 4)
            now = self._clock.now()
            for name, job in list(self._jobs.items()):
                if not job.active and now - job.used_at >= IDLE_SECONDS:
                    del self._jobs[name]

    def close(self) -> None:
        """Drop all jobs, at the end of the process."""
        self._jobs.clear()
        if self._dropping is not None:
            self._dropping.cancel()


async def _part(sweep: Sweep, limit: int) -> Swept:
    before = sweep.progress()
    while sweep.step():
        now = sweep.progress()
        if now.changed - before.changed >= limit or now.examined - before.examined >= MAX_EXAMINED:
            break
        await asyncio.sleep(0)
    return sweep.progress()
