"""Coordination. Read, decide, write, with nothing in between.

The key's turn is held from the read to the write, so that writers of this node keep out; somebody else's write is
noticed by the condition that the write carries, and then it all begins anew.
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

# Each round is up to three requests to S3. Writers that meet so often are in each other's way for good.
MAX_ROUNDS = 20


class NewValue(NamedTuple):
    """Write this; the object ends at `expires_at`, in seconds since 1970.

    `only_expiry`: `value` is the entry's own, so that what else S3 keeps with the object must stay as it is.
    """

    value: bytes
    expires_at: float = NEVER
    only_expiry: bool = False


class Otherwise(Enum):
    DELETE = "delete"
    KEEP = "keep"


DELETE: Literal[Otherwise.DELETE] = Otherwise.DELETE
KEEP: Literal[Otherwise.KEEP] = Otherwise.KEEP

# Pure; may be called several times. `value` of the entry is None if there is no such object.
Decide = Callable[[Entry], NewValue | Otherwise]


class Read(Protocol):
    """The answer to a read."""

    @property
    def entry(self) -> Entry: ...


class Reader(Protocol):
    """What reads objects: the node."""

    async def get(self, target: Object, timeout: float, owned_since: int = 0) -> Read:
        """The object, within `timeout` seconds."""


class Modified(NamedTuple):
    """What there was, and the acknowledgement of what was made of it; None if nothing was written."""

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
    """Write what `decide` makes of the object's newest version, within `timeout` seconds.

    Raises what `decide` raises, and as reads and writes do, but Unavailable in the place of ConditionFailed.
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
            # It need not be contention: where a dirty write with a condition is in conflict with what another
            # writer has put into S3, and this one has to go through S3, each round reads that dirty write again.
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
