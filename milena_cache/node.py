"""Coordination. The node's policy: what a get, put or delete does with memory, flights and S3.

    get     lookup ── a copy that may be served ──▶ hit, stale, negative_hit          never awaits
              └─ none ─▶ flight ─▶ S3 ─▶ memory ──▶ miss, revalidated, changed, coalesced, bypass
                            └─ S3 fails, but there is a copy within its keep ──▶ stale_error
    put     turn of the key ─▶ writer (S3) ─▶ memory ─▶ acknowledged
    delete  the same, leaving a negative entry

Invariants:
1. What was acknowledged is what is read: after a put returned, no read that starts later gets an older value
   through this node. Writes of a key take turns; a read of S3 that was under way when a write of its key began or
   ended is neither kept nor joined afterwards (`flights.detach` at both ends of a write).
2. A write whose outcome is unknown (S3 did not answer) leaves a copy that must be confirmed before it is served
   again, unless S3 cannot be asked: then either value may be told, for the write was not acknowledged.
3. A copy from an earlier ownership of its slot (`owned_since`) is never served without S3's word, also not when S3
   fails: somebody else may have acknowledged a newer value in between.
4. A caller that gives up cancels nothing that S3 was asked: flights and writes are tasks of the node's own. But a
   write is not begun or repeated after its caller gave up: coming late, it might overwrite a newer one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from milena_cache.buckets import Buckets, Object
from milena_cache.flights import Flight, Flights
from milena_cache.freshness import Freshness, Window
from milena_cache.memory import Entry, Memory
from milena_cache.origin_health import OriginHealth
from milena_cache.stats import ReadCounts
from milena_cache.store import Absent, ObjectStore, OriginFailure, Page, Writer
from milena_cache.turns import Turns
from milena_common.clock import Clock
from milena_common.errors import DeadlineExceeded, InvalidRequest, OriginUnavailable
from milena_common.keys import MAX_KEY_BYTES, check_value_size

log = logging.getLogger(__name__)

T = TypeVar("T")
# Does one write, which is not begun or repeated after the time that it is given; gives the ETag.
Write = Callable[[float], Awaitable[str]]


class Reply(NamedTuple):
    """The answer to a read: `entry.value` is None if the object does not exist. `age` in seconds."""

    outcome: str
    entry: Entry
    age: float


class Landing(NamedTuple):
    """What a flight brought: an outcome of `stats`, and the entry, kept or not."""

    outcome: str
    entry: Entry


class Node:
    """One cache node. `clock` is the only time it knows."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        writer: Writer,
        memory: Memory,
        freshness: Freshness,
        buckets: Buckets,
        clock: Clock,
        max_value_bytes: int,
        revalidate_timeout: float,
    ) -> None:
        self.reads = ReadCounts()
        self.memory = memory
        self.flights: Flights[Landing] = Flights()
        self._store = store
        self._writer = writer
        self._freshness = freshness
        self._buckets = buckets
        self._clock = clock
        self._max_value_bytes = max_value_bytes
        self._revalidate_timeout = revalidate_timeout
        self._turns = Turns()
        self._health = OriginHealth()
        self._writes: set[asyncio.Task[str]] = set()

    # Reading.

    def lookup(self, wanted: Object, owned_since: int = 0) -> Reply | None:
        """The answer from memory, if there is a copy that may be served without asking S3 first."""
        entry = self.memory.get(wanted.filed_as)
        if entry is None or entry.owned_since < owned_since:
            return None
        age = self._clock.now() - entry.checked_at
        window = self._freshness.window(wanted.filed_as, age, negative=entry.value is None)
        if window is Window.FRESH:
            outcome = "hit" if entry.value is not None else "negative_hit"
        elif window is Window.GRACE:
            outcome = "stale"
            self._refresh(wanted, entry)
        else:
            return None
        self.reads.outcomes[outcome] += 1
        self.reads.hit_bytes += entry.size
        return Reply(outcome, entry, age)

    async def get(self, wanted: Object, timeout: float, owned_since: int = 0) -> Reply:
        """The object, within `timeout` seconds.

        Raises OriginUnavailable, AccessDenied or FailedPrecondition with S3's words.
        """
        return self.lookup(wanted, owned_since) or await self._read_through(wanted, timeout, owned_since)

    async def _read_through(self, wanted: Object, timeout: float, owned_since: int) -> Reply:
        copy = self._servable_on_error(wanted, owned_since)
        if copy is not None and self._health.suspect:
            self._refresh(wanted, copy)
            return self._served_stale(copy)
        flight = self.flights.join(wanted.filed_as, owned_since)
        shared = flight is not None
        if flight is None:
            flight = self._start(wanted, owned_since)
        patience = timeout if copy is None else min(timeout, self._revalidate_timeout)
        if not await self.flights.wait(flight, patience):
            if copy is not None:
                self._failed(f"no answer to a get within {patience:.3g} s")
                return self._served_stale(copy)
            self.reads.outcomes["error"] += 1
            raise OriginUnavailable(f"S3 get of {wanted.ref}: no answer within {timeout:.3g} s")
        try:
            landing = flight.task.result()
        except OriginFailure as failure:
            if copy is not None and failure.fault.retryable:
                return self._served_stale(copy)
            self.reads.outcomes["error"] += 1
            raise failure.as_error() from None
        except BaseException:
            self.reads.outcomes["error"] += 1
            raise
        self.reads.outcomes["coalesced" if shared else landing.outcome] += 1
        self.reads.miss_bytes += landing.entry.size
        age = max(0.0, self._clock.now() - landing.entry.checked_at)
        return Reply("coalesced" if shared else landing.outcome, landing.entry, age)

    def _servable_on_error(self, wanted: Object, owned_since: int) -> Entry | None:
        entry = self.memory.get(wanted.filed_as)
        if entry is None or entry.value is None or entry.owned_since < owned_since:
            return None
        age = self._clock.now() - entry.checked_at
        return entry if self._freshness.may_serve_on_error(wanted.filed_as, age) else None

    def _served_stale(self, copy: Entry) -> Reply:
        self.reads.outcomes["stale_error"] += 1
        self.reads.hit_bytes += copy.size
        return Reply("stale_error", copy, self._clock.now() - copy.checked_at)

    def _refresh(self, wanted: Object, copy: Entry) -> None:
        """Ask S3 about `copy` while nobody waits for it."""
        if self.flights.join(wanted.filed_as, copy.owned_since) is None and self._health.may_probe(
            self._clock.now()
        ):
            self._start(wanted, copy.owned_since)

    def _start(self, wanted: Object, owned_since: int) -> Flight[Landing]:
        return self.flights.start(
            wanted.filed_as, owned_since, lambda flight: self._fly(wanted, owned_since, flight)
        )

    async def _fly(self, wanted: Object, owned_since: int, flight: Flight[Landing]) -> Landing:
        """Read the object from S3, conditionally if there is a copy, and keep what it brings."""
        copy = self.memory.get(wanted.filed_as)
        if copy is not None:
            age = self._clock.now() - copy.checked_at
            window = self._freshness.window(wanted.filed_as, age, negative=copy.value is None)
            if window is Window.FRESH and copy.owned_since >= owned_since:
                return Landing("revalidated", copy)  # somebody was faster
            if window is Window.GONE or copy.value is None:
                copy = None
        asked_at = self._clock.now()
        try:
            got = await self._store.get(
                wanted.ref, if_none_match=copy.etag if copy else "", max_bytes=self._max_value_bytes
            )
        except OriginFailure as failure:
            if failure.fault.retryable:
                self._failed(str(failure))
            else:
                self._succeeded()  # it answers, and its refusal shall be heard
            raise
        self._succeeded()
        # The copy is as old as the question: S3 may have changed while the answer travelled.
        if got is Absent.NOT_MODIFIED and copy is not None:
            entry, outcome = Entry(copy.value, copy.etag, asked_at, owned_since), "revalidated"
        elif isinstance(got, Absent):
            entry, outcome = Entry(None, "", asked_at, owned_since), "changed" if copy else "miss"
        else:
            entry, outcome = Entry(got.value, got.etag, asked_at, owned_since), "changed" if copy else "miss"
        if flight.attached and not self._keep(wanted.filed_as, entry):
            outcome = "bypass"
        return Landing(outcome, entry)

    def _failed(self, what: str) -> None:
        if self._health.failed(self._clock.now()):
            log.warning("S3 fails: %s; copies are served stale until it answers", what)

    def _succeeded(self) -> None:
        if self._health.succeeded():
            log.info("S3 answers again")

    def _keep(self, filed_as: bytes, entry: Entry) -> bool:
        """Put `entry` into memory; False if it does not fit there."""
        if entry.value is None and not self._freshness.negative_ttl:
            self.memory.remove(filed_as)
            return True
        return self.memory.put(filed_as, entry)

    async def exists(self, wanted: Object, timeout: float, owned_since: int = 0) -> tuple[Reply, int]:
        """Whether the object exists, and its size in bytes, without reading its value. Raises as `get` does."""
        reply = self.lookup(wanted, owned_since)
        if reply is not None:
            return reply, reply.entry.size
        copy = self._servable_on_error(wanted, owned_since)
        if copy is not None and self._health.suspect:
            self._refresh(wanted, copy)
            return self._served_stale(copy), copy.size
        patience = timeout if copy is None else min(timeout, self._revalidate_timeout)
        try:
            info = await self._limited(self._store.head(wanted.ref), patience, f"S3 head of {wanted.ref}")
        except BaseException as error:
            if copy is not None and isinstance(error, OriginUnavailable):
                self._failed(str(error))
                return self._served_stale(copy), copy.size
            self.reads.outcomes["error"] += 1
            raise
        self.reads.outcomes["miss"] += 1
        now = self._clock.now()
        if info is None:
            return Reply("miss", Entry(None, "", now, owned_since), 0.0), 0
        # The value is not here; an empty one stands for "exists".
        return Reply("miss", Entry(b"", info.etag, now, owned_since), 0.0), info.size

    def forget(self, wanted: Object) -> None:
        """Know nothing of the object any more: somebody else may have written it."""
        self.flights.detach(wanted.filed_as)
        self.memory.remove(wanted.filed_as)

    async def list(self, bucket: str, prefix: bytes, cursor: str, limit: int, timeout: float) -> Page:
        """A page of the bucket's keys, without the node's S3_PREFIX. Raises InvalidRequest, AccessDenied."""
        name = self._buckets.canonical(bucket)
        if len(prefix) > MAX_KEY_BYTES or 0 in prefix:
            raise InvalidRequest(f"prefix: allowed are at most {MAX_KEY_BYTES} bytes of UTF-8 without NUL")
        hidden = self._buckets.prefix_of(name)
        try:
            full_prefix = hidden + prefix.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("prefix: is not UTF-8; keys are UTF-8") from None
        page = await self._limited(
            self._store.list(name or self._buckets.default, full_prefix, cursor, limit), timeout, "S3 list"
        )
        return page.without_prefix(hidden) if hidden else page

    async def _limited(self, asking: Awaitable[T], timeout: float, what: str) -> T:
        """The answer of S3 within `timeout` seconds, failures as Milena's errors."""
        try:
            return await asyncio.wait_for(asking, timeout)
        except TimeoutError:
            raise OriginUnavailable(f"{what}: no answer within {timeout:.3g} s") from None
        except OriginFailure as failure:
            raise failure.as_error() from None

    # Writing.

    async def put(self, wanted: Object, value: bytes, timeout: float, owned_since: int = 0) -> str:
        """Store the object and return its ETag, once the writer has acknowledged it.

        Raises InvalidRequest for a value that is too large; DeadlineExceeded if it is not done in `timeout`
        seconds, in which case it may yet happen; what `get` raises otherwise.
        """
        check_value_size(len(value), self._max_value_bytes)

        async def write(give_up_at: float) -> str:
            return await self._writer.put(wanted.ref, value, give_up_at)

        return await self._write(wanted, write, value, timeout, owned_since)

    async def delete(self, wanted: Object, timeout: float, owned_since: int = 0) -> None:
        """Remove the object; no error if there is none. Raises as `put` does."""

        async def write(give_up_at: float) -> str:
            await self._writer.delete(wanted.ref, give_up_at)
            return ""

        await self._write(wanted, write, None, timeout, owned_since)

    async def _write(
        self, wanted: Object, write: Write, value: bytes | None, timeout: float, owned_since: int
    ) -> str:
        task = asyncio.get_running_loop().create_task(self._take_turn(wanted, write, value, timeout, owned_since))
        self._writes.add(task)
        task.add_done_callback(self._written)
        await asyncio.wait((task,), timeout=timeout)
        try:
            if not task.done():
                raise TimeoutError
            return task.result()
        except TimeoutError:
            raise DeadlineExceeded(f"{wanted.ref}: not written within {timeout:.3g} s; it may yet happen") from None
        except OriginFailure as failure:
            raise failure.as_error() from None

    async def _take_turn(
        self, wanted: Object, write: Write, value: bytes | None, timeout: float, owned_since: int
    ) -> str:
        key = wanted.filed_as
        give_up_at = self._clock.now() + timeout
        async with self._turns.turn(key, timeout):
            self.flights.detach(key)
            try:
                etag = await write(give_up_at)
            except BaseException as error:
                if not isinstance(error, OriginFailure) or error.ambiguous:
                    self._distrust(key)
                raise
            finally:
                self.flights.detach(key)
            self._keep(key, Entry(value, etag, self._clock.now(), owned_since))
            return etag

    def _distrust(self, key: bytes) -> None:
        """Make S3 be asked before the copy is served again."""
        entry = self.memory.get(key)
        if entry is None:
            return
        if entry.value is None:
            self.memory.remove(key)
            return
        oldest = self._clock.now() - self._freshness.age_at_end_of_grace(key)
        entry.checked_at = min(entry.checked_at, oldest)

    def _written(self, task: asyncio.Task[str]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may have given up; that is no event for the log

    async def finish(self, timeout: float) -> int:
        """Wait for the writes under way, at most `timeout` seconds; how many are left undone."""
        if self._writes:
            await asyncio.wait(self._writes, timeout=timeout)
        await self.flights.cancel_all()
        return len(self._writes)
