"""Coordination. The node's policy for reads: what a get does with dirty entries, memory, flights and S3.

    get     lookup ── a dirty entry: what was acknowledged and is not in S3 ──▶ hit        never awaits
              │    ── a copy that may be served ──▶ hit, stale, negative_hit               never awaits
              └─ none ─▶ flight ─▶ S3 ─▶ memory ──▶ miss, revalidated, changed, coalesced, bypass
                            └─ S3 fails, but there is a copy within its keep ──▶ stale_error

What a put or delete does is in `writes`.

Invariants:
1. What was acknowledged is what is read: a read that starts after an acknowledgement gets no older value through
   this node. A dirty entry goes before any copy; a read of S3 that was under way when a write of its key began or
   ended is neither kept nor joined afterwards.
2. What comes from an earlier ownership of its slot (`owned_since`), copy or dirty entry, is never served without
   S3's word, also not when S3 fails: somebody else may have acknowledged a newer value in between.
3. A caller that gives up cancels nothing that S3 was asked: flights are tasks of the node's own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import NamedTuple, TypeVar

from milena_cache.buckets import Buckets, Object
from milena_cache.copies import Copies
from milena_cache.dirty import Dirty, DirtyEntry
from milena_cache.flights import Flight, Flights
from milena_cache.freshness import Freshness, Window
from milena_cache.memory import Entry, Memory
from milena_cache.origin_health import OriginHealth
from milena_cache.stats import ReadCounts
from milena_cache.store import Absent, OriginFailure, Page, Readable
from milena_cache.writes import Writes
from milena_common.clock import Clock
from milena_common.errors import InvalidRequest, MilenaError, OriginUnavailable
from milena_common.keys import MAX_KEY_BYTES

log = logging.getLogger(__name__)

T = TypeVar("T")


class Reply(NamedTuple):
    """The answer to a read: `entry.value` is None if the object does not exist. `age` in seconds.

    `dirty`: it was acknowledged, and is not in S3 yet.
    """

    outcome: str
    entry: Entry
    age: float
    dirty: bool = False


class Landing(NamedTuple):
    """What a flight brought: an outcome of `stats`, and the entry, kept or not."""

    outcome: str
    entry: Entry


class Node:
    """One cache node. `clock` is the only time it knows."""

    def __init__(
        self,
        *,
        store: Readable,
        memory: Memory,
        flights: Flights[Landing],
        copies: Copies,
        dirty: Dirty,
        writes: Writes,
        reads: ReadCounts,
        freshness: Freshness,
        buckets: Buckets,
        clock: Clock,
        max_value_bytes: int,
        revalidate_timeout: float,
    ) -> None:
        self.reads = reads
        self.memory = memory
        self.flights = flights
        self.dirty = dirty
        self.writes = writes
        self._store = store
        self._copies = copies
        self._freshness = freshness
        self._buckets = buckets
        self._clock = clock
        self._max_value_bytes = max_value_bytes
        self._revalidate_timeout = revalidate_timeout
        self._health = OriginHealth()

    # Reading.

    def lookup(self, wanted: Object, owned_since: int = 0) -> Reply | None:
        """The answer from memory, if there is one that may be served without asking S3 first.

        Raises FailedPrecondition if a value that was acknowledged is damaged in the journal.
        """
        dirty = self.dirty.entries.get(wanted.filed_as)
        if dirty is not None:
            return self._tell(dirty) if dirty.owned_since >= owned_since else None
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

    def _tell(self, dirty: DirtyEntry) -> Reply:
        now = self._clock.now()
        if dirty.deleted:
            entry = Entry(None, "", now, dirty.owned_since)
            outcome = "negative_hit"
        else:
            entry = Entry(self.writes.value(dirty), self.writes.etag(dirty), now, dirty.owned_since)
            outcome = "hit"
        self.reads.outcomes[outcome] += 1
        self.reads.hit_bytes += entry.size
        return Reply(outcome, entry, 0.0, dirty=True)

    async def _confirm(self, wanted: Object, timeout: float, owned_since: int) -> Reply | None:
        """What `lookup` says once a dirty entry from an earlier ownership has been confirmed, or has gone."""
        dirty = self.dirty.get(wanted.filed_as)
        if dirty is None or dirty.owned_since >= owned_since:
            return None
        try:
            async with asyncio.timeout(timeout):
                await self.writes.confirm(dirty, owned_since, self._clock.now() + timeout)
        except TimeoutError:
            self.reads.outcomes["error"] += 1
            raise OriginUnavailable(f"S3 head of {wanted.ref}: no answer within {timeout:.3g} s") from None
        except MilenaError:
            self.reads.outcomes["error"] += 1
            raise
        return self.lookup(wanted, owned_since)

    async def get(self, wanted: Object, timeout: float, owned_since: int = 0) -> Reply:
        """The object, within `timeout` seconds.

        Raises OriginUnavailable, AccessDenied or FailedPrecondition with S3's words.
        """
        return (
            self.lookup(wanted, owned_since)
            or await self._confirm(wanted, timeout, owned_since)
            or await self._read_through(wanted, timeout, owned_since)
        )

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
        if flight.attached and not self._copies.keep(wanted.filed_as, entry):
            outcome = "bypass"
        return Landing(outcome, entry)

    def _failed(self, what: str) -> None:
        if self._health.failed(self._clock.now()):
            log.warning("S3 fails: %s; copies are served stale until it answers", what)

    def _succeeded(self) -> None:
        if self._health.succeeded():
            log.info("S3 answers again")

    async def exists(self, wanted: Object, timeout: float, owned_since: int = 0) -> tuple[Reply, int]:
        """Whether the object exists, and its size in bytes, without reading its value. Raises as `get` does."""
        reply = self.lookup(wanted, owned_since) or await self._confirm(wanted, timeout, owned_since)
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
        """Believe nothing of the object any more without asking S3: somebody else may have written it."""
        self._copies.forget(wanted.filed_as)
        self.writes.forget(wanted.filed_as)

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

    async def finish(self) -> None:
        """Break off the reads under way; for the end of the process."""
        await self.flights.cancel_all()
