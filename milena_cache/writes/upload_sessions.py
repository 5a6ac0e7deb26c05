"""Coordination. Objects that callers write step by step, of any size: one session for each.

A caller names the session, at random, and sends the bytes in order, each step with the offset of its first byte; so
a step whose reply was lost can be repeated. Nothing is visible before the last step. An object of which no part had
to be sent to S3 is a put then, in the durability class that was requested; a larger one is written through.

A session belongs to one ownership of the key's slot: when the slot moves, the next step fails, and nothing was
stored. Bounds: MEMORY_BYTES of each session are taken from the process's bytes in flight, and all sessions
together have a quarter of these; a session that is not continued for IDLE_SECONDS is dropped.

A dropped session removes its parts from S3. Those of a process that was killed stay, and cost storage until a
lifecycle rule of the bucket removes them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from milena_cache.objects.names import Object
from milena_cache.objects.object_store import OriginFailure
from milena_cache.objects.write_request import Ack, Change
from milena_cache.writes.multipart import MEMORY_BYTES, Multipart
from milena_cache.writes.writer import Writes
from milena_common.api.durability import Durability
from milena_common.api.errors import DeadlineExceeded, FailedPrecondition, InvalidRequest, MilenaError, Overloaded
from milena_common.api.uploads import MAX_STEP_BYTES
from milena_common.limits.byte_budget import ByteBudget
from milena_common.runtime.clock import Clock
from milena_common.runtime.deadlines import time_for_room

# Seconds after which a session that is not continued is dropped: its caller may be gone.
IDLE_SECONDS = 300.0
MAX_SESSIONS = 64
# The share of the process's bytes in flight that sessions may have.
SHARE = 1 / 4
# Acknowledgements that are kept for callers that repeat the last step.
MAX_ACKNOWLEDGED = 1000
NAME_DIGITS = 32
CLOSE_SECONDS = 5.0

_HEX = frozenset("0123456789abcdef")

log = logging.getLogger(__name__)


class Step(NamedTuple):
    """A step of writing an object.

    upload: the session's name, 32 hexadecimal digits
    offset: of the first byte of `value` in the object; 0 begins the session
    complete: `value` is the end of the object, which is to be stored
    abort: the session is to be dropped
    durability, if_match, if_none_match: with `complete`, as those of a put
    """

    upload: str
    offset: int
    value: bytes
    complete: bool = False
    abort: bool = False
    durability: Durability | None = None
    if_match: str = ""
    if_none_match: str = ""


class Received(NamedTuple):
    """The result of a step. size: bytes of the object so far; ack: the acknowledgement of the last one."""

    size: int
    ack: Ack | None


class _Session:
    """One object that is being written.

    name: the object's cache key, and the name of the session
    owned_since: the ring epoch since which this node owns the object
    held: bytes that are taken from the budget
    active: steps that wait here
    used_at: when the last step ended, monotonic seconds
    completing: the write of the whole object, once it has begun
    """

    def __init__(self, target: Object, upload: str, owned_since: int, parts: Multipart, held: int) -> None:
        self.name = target.cache_key, upload
        self.target = target
        self.owned_since = owned_since
        self.parts = parts
        self.held = held
        self.active = 0
        self.used_at = 0.0
        self.lock = asyncio.Lock()
        self.completing: asyncio.Task[Ack] | None = None


class UploadSessions:
    """The sessions of one node. `make` returns the multipart upload of an object.

    max_sessions: how many there may be
    """

    def __init__(
        self,
        writes: Writes,
        make: Callable[[Object, int], Multipart],
        budget: ByteBudget,
        clock: Clock,
        max_value_bytes: int,
    ) -> None:
        self.max_sessions = max(1, min(MAX_SESSIONS, int(budget.limit * SHARE) // MEMORY_BYTES))
        self._held = min(MEMORY_BYTES, int(budget.limit * SHARE))
        self._writes = writes
        self._make = make
        self._budget = budget
        self._clock = clock
        self._max_value_bytes = max_value_bytes
        self._sessions: dict[tuple[bytes, str], _Session] = {}
        self._acknowledged: OrderedDict[tuple[bytes, str], Received] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    async def step(self, target: Object, owned_since: int, step: Step, timeout: float) -> Received:
        """Do one step within `timeout` seconds.

        After an error other than Overloaded and DeadlineExceeded the session is dropped. Raises InvalidRequest;
        Overloaded for a first step if there are too many sessions; FailedPrecondition for a session that is not
        known here any more, or an object that is too large; and as `Writes.put` does.
        """
        if len(step.upload) != NAME_DIGITS or not _HEX.issuperset(step.upload):
            raise InvalidRequest(f"upload: got {step.upload[:80]!r}; allowed are {NAME_DIGITS} hexadecimal digits")
        if len(step.value) > MAX_STEP_BYTES:
            raise InvalidRequest(f"value: has {len(step.value)} bytes; allowed are at most {MAX_STEP_BYTES}")
        name = target.cache_key, step.upload
        session = self._sessions.get(name)
        if step.abort:
            if session is not None:
                self._drop(session)
            return Received(0, None)
        if session is None:
            if step.complete and name in self._acknowledged:
                return self._acknowledged[name]
            if step.offset:
                raise FailedPrecondition(
                    f"{target.ref}: this upload is not known here: it was not continued for {IDLE_SECONDS:g} s, or "
                    "the node restarted, or the key has another owner; nothing was stored, write the object again"
                )
            session = await self._begin(target, step.upload, owned_since, timeout)
        deadline = self._clock.now() + timeout
        session.active += 1
        try:
            if owned_since > session.owned_since:
                raise FailedPrecondition(
                    f"{target.ref}: the key had another owner meanwhile; nothing was stored, write the object again"
                )
            return await self._step_in_turn(session, step, deadline)
        except DeadlineExceeded:
            raise
        except MilenaError:
            self._drop(session)
            raise
        finally:
            session.active -= 1
            session.used_at = self._clock.now()

    async def _begin(self, target: Object, upload: str, owned_since: int, timeout: float) -> _Session:
        if len(self._sessions) >= self.max_sessions:
            raise Overloaded(
                f"{len(self._sessions)} objects are being written in parts here, which is the most in "
                f"{self._budget.limit} bytes in flight (MAX_IN_FLIGHT_BYTES); nothing was done",
                retry_after=0.5,
            )
        await self._budget.take(self._held, time_for_room(timeout))
        session = self._sessions.get((target.cache_key, upload))
        if session is not None or len(self._sessions) >= self.max_sessions:
            # The first step was repeated, or others have begun, while this one waited.
            self._budget.release(self._held)
            return session or await self._begin(target, upload, owned_since, timeout)
        session = _Session(target, upload, owned_since, self._make(target, owned_since), self._held)
        session.used_at = self._clock.now()
        self._sessions[session.name] = session
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())
        return session

    async def _step_in_turn(self, session: _Session, step: Step, deadline: float) -> Received:
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.now())):
                await session.lock.acquire()
        except TimeoutError:
            raise DeadlineExceeded(f"{session.target.ref}: the step before it has not ended in time") from None
        try:
            parts = session.parts
            if session.completing is None:
                known = parts.size - step.offset
                if known < 0:
                    raise InvalidRequest(f"offset: got {step.offset}; {parts.size} bytes were received")
                await parts.add(memoryview(step.value)[known:], deadline)
                if not step.complete:
                    return Received(parts.size, None)
                await self._begin_completing(session, step, deadline)
            elif not step.complete:
                raise InvalidRequest("complete: the object is being stored already")
            return Received(parts.size, await self._completed(session, deadline))
        finally:
            session.lock.release()

    async def _begin_completing(self, session: _Session, step: Step, deadline: float) -> None:
        parts, target, since = session.parts, session.target, session.owned_since
        conditions = step.if_match, step.if_none_match
        if not parts.begun and parts.size <= self._max_value_bytes:
            writing = self._writes.put(
                target,
                parts.value,
                max(0.0, deadline - self._clock.now()),
                owned_since=since,
                durability=step.durability,
                if_match=step.if_match,
                if_none_match=step.if_none_match,
            )
        else:
            await parts.finish_parts(deadline)
            change = Change(target, b"", "", since, *conditions)
            writing = self._writes.store_parts(change, parts, max(0.0, deadline - self._clock.now()))
        # A task of its own: a caller that gives up and repeats the step gets the result of this one.
        session.completing = asyncio.get_running_loop().create_task(writing)

    async def _completed(self, session: _Session, deadline: float) -> Ack:
        task = session.completing
        assert task is not None
        await asyncio.wait((task,), timeout=max(0.0, deadline - self._clock.now()))
        if not task.done():
            raise DeadlineExceeded(f"{session.target.ref}: not written in time; the write may still take effect")
        ack = task.result()
        if self._sessions.pop(session.name, None) is not None:
            self._budget.release(session.held)
            self._acknowledged[session.name] = Received(session.parts.size, ack)
            if len(self._acknowledged) > MAX_ACKNOWLEDGED:
                self._acknowledged.popitem(last=False)
        return ack

    def _drop(self, session: _Session) -> None:
        """Forget the session, and remove its parts from S3 in the background."""
        if self._sessions.pop(session.name, None) is None:
            return
        task = asyncio.get_running_loop().create_task(self._abort(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _abort(self, session: _Session) -> None:
        try:
            if session.completing is not None:
                await asyncio.wait((session.completing,))
                if not session.completing.cancelled():
                    session.completing.exception()  # marks it as retrieved
            await session.parts.remove_upload()
        except OriginFailure as failure:
            log.warning(
                "%s: the parts of a write that was not completed stay in S3, until a lifecycle rule of the bucket "
                "(AbortIncompleteMultipartUpload) removes them: %s",
                session.target.ref,
                failure,
            )
        finally:
            self._budget.release(session.held)

    async def _sweep(self) -> None:
        """Drop sessions that are not continued, while there are any."""
        while self._sessions:
            await self._clock.sleep(IDLE_SECONDS / 4)
            now = self._clock.now()
            for session in list(self._sessions.values()):
                if not session.active and now - session.used_at >= IDLE_SECONDS:
                    log.warning("%s: not continued for %g s, dropped", session.target.ref, IDLE_SECONDS)
                    self._drop(session)

    async def close(self) -> None:
        """Drop all sessions, at the end of the process, and wait a moment for S3."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for session in list(self._sessions.values()):
            self._drop(session)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
