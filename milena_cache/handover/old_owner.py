"""Coordination. Reads from the old owner of a slot before S3, for a while after the slot was handed over.

Without that every object of a moved slot is read from S3 once more, although a node has it in memory. An entry of
the old owner is of use only while nothing was written since:

1. the slot is handed over; the old owner has a clean entry of key k
2. this node acknowledges a write of k, uploads it, and evicts its entry
3. a read misses here: the old owner's entry is older than an acknowledged write

So a key that was written here since the slot was taken is never requested. The keys are kept for FETCH_SECONDS,
as long as the old owner gets requests; beyond MAX_WRITTEN of them it gets no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from milena_cache.handover.frames import Range
from milena_cache.membership.ownership import ELSEWHERE, Ownership
from milena_cache.memory.freshness import Freshness, Window
from milena_cache.memory.lru import Memory
from milena_cache.objects.entry import Entry, entry_of
from milena_common.api.errors import MilenaError
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_runs import overlaps
from milena_common.cluster.slots import slot_of
from milena_common.resp.encoding import command
from milena_common.runtime.clock import Clock

FETCH_SECONDS = 60.0
# Timeout of one request; S3 would respond in some tens of milliseconds.
PEEK_SECONDS = 0.1
MAX_WRITTEN = 200_000
# Bytes that an entry takes at most besides its key and value.
ROOM = 1000


class Links(Protocol):
    """Connections to other nodes."""

    async def request(self, address: str, sent: bytes, timeout: float) -> Any:
        """Return the reply of the node whose RESP server is at `address`. Raises MilenaError."""


class _Taken(NamedTuple):
    """A slot that was taken: since epoch `since`, from the node at `resp_address`, for requests until `until`."""

    since: int
    resp_address: str
    until: float


class OldOwner:
    """The requests to old owners, and the replies to those of new owners.

    served_before: by slot that this node has stopped or handed over, since which epoch it owned it, and when it was
        stopped, monotonic seconds
    is_known: returns True for a key with an entry, a dirty entry or a read in flight
    requests, found: number of requests to old owners, and of entries that were found
    """

    def __init__(
        self,
        ownership: Ownership,
        memory: Memory,
        freshness: Freshness,
        links: Links,
        clock: Clock,
        served_before: dict[int, tuple[int, float]],
        watch: Callable[[Callable[[bytes], None] | None], None],
        is_known: Callable[[bytes], bool],
    ) -> None:
        self.requests = self.found = 0
        self._ownership = ownership
        self._memory = memory
        self._freshness = freshness
        self._links = links
        self._clock = clock
        self._served_before = served_before
        self._watch = watch
        self._is_known = is_known
        self._taken: dict[int, _Taken] = {}
        self._addresses: set[str] = set()  # all that are in `_taken`, at least
        self._remove_at = 0.0
        self._written: set[bytes] = set()
        self._until = 0.0

    # ---- the new owner

    def took(self, ranges: Sequence[Range]) -> None:
        """Record that the slots of `ranges` were taken, before any request for them is served."""
        now = self._clock.now()
        if now >= self._until:
            self._written.clear()
        self._until = now + FETCH_SECONDS
        taken = [(first, last, None, 0) for first, last in ranges]
        for first, last, _, owned in overlaps(taken, self._ownership.slot_map.ranges):
            resp_address = owned.node.resp_address
            each = _Taken(self._ownership.since[first], resp_address, self._until)
            self._taken.update(dict.fromkeys(range(first, last + 1), each))
            self._addresses.add(resp_address)
        self._watch(self._wrote)

    def _wrote(self, key: bytes) -> None:
        if len(self._written) < MAX_WRITTEN:
            self._written.add(key)
        else:
            self._stop()

    def _stop(self) -> None:
        self._taken.clear()
        self._addresses.clear()
        self._written.clear()
        self._watch(None)

    def update_nodes(self, slot_map: SlotMap) -> None:
        """Send no request to a node that is not in the ring any more."""
        # Every slot may be in these: they are gone through only if that has a result.
        addresses = {node.resp_address for node in slot_map.nodes}
        if not self._addresses <= addresses:
            self._addresses &= addresses
            for slot in [slot for slot, taken in self._taken.items() if taken.resp_address not in addresses]:
                del self._taken[slot]
        now = self._clock.now()
        if now >= self._remove_at:
            self._remove_at = now + FETCH_SECONDS
            for slot in [slot for slot, (_, at) in self._served_before.items() if at + 2 * FETCH_SECONDS < now]:
                del self._served_before[slot]
        if self._taken and now >= self._until:
            self._stop()

    async def fetch_entry(self, key: bytes, owned_since: int) -> Entry | None:
        """Return the old owner's fresh entry of `key`, for the ownership since `owned_since`; None without one."""
        if not self._taken:
            return None
        slot = slot_of(key)
        taken = self._taken.get(slot)
        if taken is None or key in self._written or not taken.resp_address or taken.since != owned_since:
            return None
        requested_at = self._clock.now()
        if requested_at >= taken.until or self._ownership.since[slot] != taken.since:
            del self._taken[slot]
            return None
        self.requests += 1
        sent = command(b"MILENA.PEEK", b"%d" % taken.since, key)
        try:
            reply = await self._links.request(taken.resp_address, sent, PEEK_SECONDS)
        except MilenaError:
            return None
        if not isinstance(reply, list) or len(reply) != 4 or key in self._written:
            return None
        value, etag, age_ms, expires_at = reply
        if not isinstance(value, bytes):
            return None
        self.found += 1
        return entry_of(value, etag.decode(), requested_at - int(age_ms) / 1000, owned_since, float(expires_at))

    def keep(self, epoch: int, key: bytes, entry: Entry) -> bool:
        """Keep a clean entry that the old owner has sent, if there is room; return True if it was kept.

        `epoch`: since which this node owns the slot.
        """
        slot = slot_of(key)
        taken = self._taken.get(slot)
        if taken is None or taken.since != epoch or self._ownership.since[slot] != epoch or key in self._written:
            return False
        memory = self._memory
        fits = len(memory) < memory.max_entries and memory.bytes + entry.size + len(key) + ROOM < memory.max_bytes
        if not fits or self._is_known(key):
            return False
        return memory.store(key, entry)

    def clean_entry(self, epoch: int, value: bytes, etag: str, age: float, expires_at: float) -> Entry:
        """Return an entry as the old owner describes it; `age` in seconds, `expires_at` in seconds since 1970."""
        return entry_of(value, etag, self._clock.now() - age, epoch, expires_at)

    # ---- the old owner

    def peek(self, epoch: int, key: bytes) -> list[Any] | None:
        """Return value, ETag, age in milliseconds and expiry of a fresh clean entry of a slot that was handed over.

        `epoch`: since which the new owner owns it. None without such an entry.
        """
        slot = slot_of(key)
        since, _ = self._served_before.get(slot, (ELSEWHERE, 0.0))
        entry = self._memory.peek(key)
        if since == ELSEWHERE or since >= epoch or entry is None or entry.value is None:
            return None
        if entry.owned_since < since or entry.indeterminate or self._ownership.since[slot] != ELSEWHERE:
            return None
        age = self._clock.now() - entry.checked_at
        if self._freshness.window(key, age, negative=False) is not Window.FRESH:
            return None
        return [entry.value, entry.etag.encode(), int(age * 1000) + 1, repr(entry.expires_at).encode()]
