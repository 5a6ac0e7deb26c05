"""Coordination. Atomic read-modify-write of one object: read, decide, write on a condition, retry.

The key's lock is held from the read to the write, which excludes the other writers of this node. Writers elsewhere
take no lock of this node: the write therefore carries the ETag that was read as a condition (or that there was no
object), and if the condition fails, all begins again with a read. Otherwise: (1) INCR reads 5; (2) another writer
puts 9 into S3; (3) INCR writes 6, and the 9 is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Literal, NamedTuple, Protocol

from milena_cache.memory.lru import Entry
from milena_cache.objects.expiry import NEVER
from milena_cache.objects.names import Object
from milena_cache.objects.write_request import Ack, Change
from milena_cache.writes.writer import Writes
from milena_common.api.durability import ANY_OBJECT, Durability
from milena_common.api.errors import ConditionFailed, Unavailable
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


class Read(Protocol):
    """The reply to a read."""

    @property
    def entry(self) -> Entry: ...


class Reader(Protocol):
    """The node, as far as it reads objects."""

    async def get(self, target: Object, timeout: float, owned_since: int = 0) -> Read:
        """Return the object, within `timeout` seconds. Raises MilenaError."""


class Modified(NamedTuple):
    """The result of `modify`.

    before: the object as it was read
    ack: the acknowledgement of the write; None if nothing was written
    """

    before: Entry
    ack: Ack | None


async def modify(
    node: Reader,
    writes: Writes,
    clock: Clock,
    target: Object,
    decide: Decide,
    timeout: float,
    *,
    owned_since: int = 0,
    durability: Durability | None = None,
) -> Modified:
    """Replace the object's newest version by what `decide` returns for it, within `timeout` seconds.

    Raises what `decide` raises, and what reads and writes raise, except that ConditionFailed is retried, and after
    MAX_ROUNDS becomes Unavailable.
    """
    deadline = clock.now() + timeout

    async def locked() -> Modified:
        async with writes.lock(target.cache_key, timeout):
            for _ in range(MAX_ROUNDS):
                remaining = deadline - clock.now()
                if remaining <= 0:
                    raise TimeoutError
                before = (await node.get(target, remaining, owned_since)).entry
                change = _change(target, before, decide(before), owned_since)
                if change is None:
                    return Modified(before, None)
                try:
                    return Modified(before, await writes.write_locked(change, durability, deadline))
                except ConditionFailed:
                    continue
            # Not necessarily contention. A dirty write with a condition may conflict with what another writer has
            # put into S3: if this write has to go through to S3, each round reads that dirty write and fails again.
            raise Unavailable(f"{target.ref}: others changed it, or are in conflict, in {MAX_ROUNDS} rounds")

    return await writes.wait_for(locked(), target, timeout)


def _change(target: Object, before: Entry, decided: NewValue | Otherwise, owned_since: int) -> Change | None:
    there = before.value is not None
    if decided is KEEP or (decided is DELETE and not there):
        return None
    if_match = before.etag if there else ""
    if isinstance(decided, NewValue):
        return Change(
            target,
            decided.value,
            etag=before.etag if decided.value is before.value else "",
            owned_since=owned_since,
            if_match=if_match,
            if_none_match="" if there else ANY_OBJECT,
            expires_at=decided.expires_at,
            keeps=before.etag if decided.only_expiry else "",
        )
    return Change(target, None, owned_since=owned_since, if_match=if_match)
