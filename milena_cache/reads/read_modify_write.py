"""Coordination. Atomic read-modify-write of objects: read, decide, write on a condition, retry.

The keys' locks are held from the read to the write, which excludes the other writers of this node; locks of several
keys are taken in one order, so that no two transactions wait for each other. Writers elsewhere take no lock of this
node: a write therefore carries the ETag that was read as a condition (or that there was no object), and if the
condition fails, all begins again with a read. Otherwise: (1) INCR reads 5; (2) another writer puts 9 into S3; (3)
INCR writes 6, and the 9 is lost.

Where all keys can be read from memory, and written without waiting, that is done in one step of the event loop, and
no lock is needed: nothing can come in between (`_at_once`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from enum import Enum
from typing import Any, Literal, NamedTuple, Protocol

from milena_cache.objects.entry import Entry
from milena_cache.objects.expiry import NEVER
from milena_cache.objects.names import Object
from milena_cache.objects.write_request import Ack, Change, NotDurable
from milena_cache.writes.durable import NotCopied
from milena_cache.writes.writer import Writes, outcome_unknown
from milena_common.api.durability import ANY_OBJECT, Durability
from milena_common.api.errors import ConditionFailed, MilenaError, Unavailable
from milena_common.runtime.clock import Clock

# Each round is up to three requests to S3. Beyond this the contention does not resolve itself.
MAX_ROUNDS = 20


class NewValue(NamedTuple):
    """The decision to write.

    value: bytes to write
    expires_at: seconds since 1970; NEVER (0) if the object does not expire
    only_expiry: True if only the expiry changes: `value` is the entry's own, and all other metadata stays as it is
    """

    value: bytes
    expires_at: float = NEVER
    only_expiry: bool = False


class Otherwise(Enum):
    """The decisions other than to write: delete the object, or leave it as it is."""

    DELETE = "delete"
    KEEP = "keep"


DELETE: Literal[Otherwise.DELETE] = Otherwise.DELETE
KEEP: Literal[Otherwise.KEEP] = Otherwise.KEEP

# A pure function of the entry read, called once a round. The entry's `value` is None if there is no such object.
Decide = Callable[[Entry], NewValue | Otherwise]


# The same for several objects, by cache key: returns what is replied, and what is to be written. An object that was
# not read is not among the entries.
DecideAll = Callable[[Mapping[bytes, Entry]], tuple[Any, Mapping[bytes, NewValue | Otherwise]]]

# An object, and the ring epoch since which this node owns it.
Place = tuple[Object, int]


class Read(Protocol):
    """The reply to a read."""

    @property
    def entry(self) -> Entry: ...


class Reader(Protocol):
    """The node, as far as it reads objects."""

    async def get(self, target: Object, timeout: float, owned_since: int = 0) -> Read:
        """Return the object, within `timeout` seconds. Raises MilenaError."""


class MemoryReader(Reader, Protocol):
    """The same, and as far as it has them in memory."""

    def lookup(self, target: Object, owned_since: int = 0) -> Read | None:
        """Return the object from memory; None if S3 must be read first. Raises MilenaError."""


class Decided(NamedTuple):
    """The result of a read-modify-write.

    reply: what was decided to be replied
    acks: the acknowledgements of the writes; none if nothing was written
    """

    reply: Any
    acks: Sequence[Ack]


class Modified(NamedTuple):
    """The result of `modify`.

    before: the object as it was read
    ack: the acknowledgement of the write; None if nothing was written
    """

    before: Entry
    ack: Ack | None


class ReadModifyWrite:
    """One read-modify-write of the objects at `places`, by cache key, of which those in `read` are read.

    The others are written without regard to what they are. `carry_out` does it.
    """

    def __init__(
        self,
        node: MemoryReader,
        writes: Writes,
        clock: Clock,
        places: Mapping[bytes, Place],
        read: Collection[bytes],
        decide: DecideAll,
        timeout: float,
        durability: Durability | None = None,
    ) -> None:
        self._node = node
        self._writes = writes
        self._clock = clock
        self._places = places
        self._read = read
        self._decide = decide
        self._timeout = timeout
        self._deadline = clock.now() + timeout
        self._durability = durability

    def carry_out(self) -> Decided | Awaitable[Decided]:
        """Replace the newest versions by what is decided for them: all of them or none.

        Raises, or the awaitable does, what `decide` raises, and what reads and writes raise, except that
        ConditionFailed is retried, and after MAX_ROUNDS becomes Unavailable.
        """
        done = self._at_once()
        return self._wait() if done is None else done

    def _at_once(self) -> Decided | Awaitable[Decided] | None:
        """Do it in this step of the event loop; None if that is not possible, and nothing was done.

        The awaitable waits until the writes are durable: their place in the order is decided.
        """
        places, writes, lookup = self._places, self._writes, self._node.lookup
        if not writes.are_idle(places, self._durability):
            return None
        found: dict[bytes, Entry] = {}
        for key in self._read:
            reply = lookup(*places[key])
            if reply is None:
                return None
            found[key] = reply.entry
        reply, changes = self._decided(found)
        if not changes:
            return Decided(reply, ())
        begun = writes.begin_together(changes, self._durability, self._timeout)
        if begun is None:
            return None
        return Decided(reply, begun) if isinstance(begun, list) else self._acknowledged(reply, begun)

    async def _acknowledged(self, reply: Any, begun: Awaitable[list[Ack]]) -> Decided:
        try:
            return Decided(reply, await begun)
        except NotDurable as error:
            # Nothing of the writes is left here; what a holder of copies has is superseded by a later version.
            try:
                return await self._wait()
            except MilenaError as failure:
                if isinstance(error, NotCopied):
                    raise outcome_unknown(failure) from None
                raise

    async def _wait(self) -> Decided:
        target = next(iter(self._places.values()))[0]
        return await self._writes.wait_for(self._locked(), target, self._timeout)

    async def _locked(self) -> Decided:
        places, writes, clock, deadline = self._places, self._writes, self._clock, self._deadline
        async with AsyncExitStack() as locks:
            for key in sorted(places):
                await locks.enter_async_context(writes.lock(key, max(0.0, deadline - clock.now())))
            for _ in range(MAX_ROUNDS):
                remaining = deadline - clock.now()
                if remaining <= 0:
                    raise TimeoutError
                reply, changes = self._decided(await self._found(remaining))
                if not changes:
                    return Decided(reply, ())
                try:
                    return Decided(reply, await writes.write_all_locked(changes, self._durability, deadline))
                except ConditionFailed:
                    continue
        # Not necessarily contention. A dirty write with a condition may conflict with what another writer has put
        # into S3: if this write has to go through to S3, each round reads that dirty write and fails again.
        ref = next(iter(places.values()))[0].ref
        raise Unavailable(f"{ref}: others changed it, or are in conflict, in {MAX_ROUNDS} rounds")

    async def _found(self, timeout: float) -> dict[bytes, Entry]:
        """Return the objects that are read."""
        keys = list(self._read)
        if len(keys) == 1:
            target, owned_since = self._places[keys[0]]
            return {keys[0]: (await self._node.get(target, timeout, owned_since)).entry}
        places = [self._places[key] for key in keys]
        results = await asyncio.gather(
            *(self._node.get(target, timeout, since) for target, since in places),
            return_exceptions=True,
        )
        found: dict[bytes, Entry] = {}
        for key, result in zip(keys, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            found[key] = result.entry
        return found

    def _decided(self, found: Mapping[bytes, Entry]) -> tuple[Any, list[Change]]:
        reply, decided = self._decide(found)
        changes: list[Change] = []
        for key, what in decided.items():
            if what is not KEEP:
                target, owned_since = self._places[key]
                changes.append(_change(target, found.get(key), what, owned_since))
        return reply, changes


async def modify(
    node: MemoryReader,
    writes: Writes,
    clock: Clock,
    target: Object,
    decide: Decide,
    timeout: float,
    *,
    owned_since: int = 0,
    durability: Durability | None = None,
) -> Modified:
    """Replace one object's newest version by what `decide` returns for it. Raises as `ReadModifyWrite` does."""
    key = target.cache_key

    def decide_all(found: Mapping[bytes, Entry]) -> tuple[Entry, Mapping[bytes, NewValue | Otherwise]]:
        before = found[key]
        decided = decide(before)
        return before, {key: KEEP if decided is DELETE and before.value is None else decided}

    places = {key: (target, owned_since)}
    begun = ReadModifyWrite(node, writes, clock, places, places, decide_all, timeout, durability).carry_out()
    done = begun if isinstance(begun, Decided) else await begun
    return Modified(done.reply, done.acks[0] if done.acks else None)


def _change(target: Object, before: Entry | None, decided: NewValue | Otherwise, owned_since: int) -> Change:
    """Return the change, on the condition that the object still is `before`; without one if that was not read."""
    there = before is not None and before.value is not None
    etag = before.etag if before is not None and there else ""
    if not isinstance(decided, NewValue):
        return Change(target, None, owned_since=owned_since, if_match=etag)
    return Change(
        target,
        decided.value,
        etag=etag if before is not None and decided.value is before.value else "",
        owned_since=owned_since,
        if_match=etag,
        if_none_match="" if there or before is None else ANY_OBJECT,
        expires_at=decided.expires_at,
        keeps=etag if decided.only_expiry else "",
    )
