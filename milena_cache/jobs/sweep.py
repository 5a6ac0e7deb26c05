"""Coordination. One job on the clean entries below a prefix: drops, invalidates, pins, unpins or counts them.

An entry is pinned, not a key: what is read later is not, nor what is written or dropped and read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from milena_cache.blocks.block_memory import BlockMemory
from milena_cache.memory.entries import Entries
from milena_cache.memory.lru import Memory
from milena_cache.objects.entry import cost_of
from milena_cache.reads.refresh import Change, Walk
from milena_cache.writeback.dirty_table import Dirty

PURGE = "purge"
INVALIDATE = "invalidate"
PIN = "pin"
UNPIN = "unpin"
ACTIONS = (PURGE, INVALIDATE, PIN, UNPIN)


# Looks into the eviction order for pinned keys in one step: less than 1 ms of work.
PLACES_AT_ONCE = 8


class Plan(NamedTuple):
    """What a job does.

    action: one of ACTIONS
    bucket, prefix: which keys
    dry_run: True if it only counts what it would change
    """

    action: str
    bucket: str
    prefix: bytes
    dry_run: bool


class Swept(NamedTuple):
    """How far a job is.

    done: True at its end
    examined: entries that it has come to
    entries: how many there were when it began
    changed: how many it has changed, or would have; a purge also blocks of large objects
    bytes: of them, with their overhead
    dirty: objects that it left as they are, since S3 does not have them yet; 0 before the end
    """

    done: bool
    examined: int
    entries: int
    changed: int
    bytes: int
    dirty: int


class Sweep:
    """One job. `matches`: True for the cache keys that it is about."""

    def __init__(
        self,
        plan: Plan,
        matches: Callable[[bytes], bool],
        memory: Memory,
        entries: Entries,
        blocks: BlockMemory,
        dirty: Dirty,
    ) -> None:
        self.plan = plan
        self._memory = memory
        self._entries = entries
        self._blocks = blocks
        self._dirty = dirty
        self._number = len(memory)
        self._changed = self._bytes = 0
        self._done = False
        self._stamps: dict[tuple[int, int], tuple[float, int]] = {}
        self._walk = Walk(entries, dirty, matches)
        self._steps = self._all_steps(matches)

    def step(self) -> bool:
        """Do the next step, of about 1 ms; False if there was none left. Raises as `Memory.pin` does."""
        if not self._done and next(self._steps, self) is self:
            self._done = True
        return not self._done

    def progress(self) -> Swept:
        """Return how far it is."""
        walk = self._walk
        return Swept(self._done, walk.examined, self._number, self._changed, self._bytes, walk.dirty)

    def _all_steps(self, matches: Callable[[bytes], bool]) -> Iterator[None]:
        change, fence = self._actions()
        if self.plan.action in (PURGE, INVALIDATE) and not self.plan.dry_run:
            self._entries.doubt_copies()
        yield from self._walk.steps(change, fence)
        if self.plan.action == PIN and not self.plan.dry_run:
            for number in range(len(self._memory)):
                if not self._memory.take_out_pinned():
                    break
                if number % PLACES_AT_ONCE == 0:
                    yield
        if self.plan.action != PURGE:
            return  # blocks are of one version of their object, of which S3 is asked by its entry or a HEAD
        for key in filter(matches, self._blocks.object_keys()):
            number, size = self._blocks.size_of(key)
            self._changed += number
            self._bytes += size
            if not self.plan.dry_run:
                self._blocks.drop_others(key, "")
            yield

    def _actions(self) -> tuple[Change, Change]:
        action = self.plan.action
        if action == PIN:
            return (self._count_pins if self.plan.dry_run else self._pin), _ignore
        if action == UNPIN:
            return self._unpin, _ignore
        if self.plan.dry_run:
            return self._count, _ignore
        return (self._drop, self._drop) if action == PURGE else (self._mark, self._fence)

    def _count(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            entry = self._memory.peek(key)
            if entry is not None and key not in self._dirty:
                self._changed += 1
                self._bytes += cost_of(key, entry)

    def _drop(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if key in self._dirty:
                continue
            entry = self._memory.peek(key)
            if self._entries.invalidate(key) and entry is not None:
                self._changed += 1
                self._bytes += cost_of(key, entry)

    def _mark(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            entry = self._memory.peek(key)
            if key not in self._dirty and self._entries.mark_old(key, self._stamps) and entry is not None:
                self._changed += 1
                self._bytes += cost_of(key, entry)

    def _pin(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            entry = self._memory.peek(key)
            if entry is not None and entry.value is not None and self._memory.pin(key):
                self._changed += 1
                self._bytes += cost_of(key, entry)

    def _count_pins(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            entry = self._memory.peek(key)
            if entry is not None and entry.value is not None and key not in self._memory.pinned:
                self._changed += 1
                self._bytes += cost_of(key, entry)
                self._memory.check_pins(self._changed, self._bytes)

    def _unpin(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            entry = self._memory.peek(key)
            if entry is None or key not in self._memory.pinned:
                continue
            self._changed += 1
            self._bytes += cost_of(key, entry)
            if not self.plan.dry_run:
                self._memory.unpin(key)

    def _fence(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if key not in self._dirty:
                self._entries.fence_reads(key)
                self._entries.change_feed.notify(key)


def _ignore(keys: Iterable[bytes]) -> None:
    """Do nothing: a job that only counts leaves reads in flight as they are."""
