"""Pure. The node's state for those who ask: why it is not ready, and its figures by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from milena_cache.journal.group_commit import Journal
from milena_cache.membership.registration import Registration
from milena_cache.origin.bucket_check import BucketCheck
from milena_cache.origin.requests import OriginCounts
from milena_cache.origin.s3.clock import CorrectedClock
from milena_cache.reads.reader import Node
from milena_cache.writeback.dirty_table import DirtyEntry
from milena_cache.writeback.loop import WriteBack
from milena_common.cluster.missing_node import NodeStatus, shortened
from milena_common.metrics.call_counts import CallCounts


class Concern(Protocol):
    """A part that can say why the node should not serve, or should be looked after."""

    def not_ready(self) -> list[str]:
        """The reasons, in words; empty when there are none."""

    def degraded(self) -> list[str]:
        """The same for what an operator should look at, though the node serves."""


class Status:
    """Reads the parts at the moment it is asked. `registrations` has one for each router. `ring_epoch`
    gives the newest ring's epoch, 0 if none is known; None where nobody needs a ring.

    `concerns` are further parts whose reasons are reported.

    `max_age`: how many seconds an acknowledged write may be on its way to S3 before that is a reason to worry.
    """

    def __init__(
        self,
        node: Node,
        origin: OriginCounts,
        calls: CallCounts,
        bucket_check: BucketCheck,
        journal: Journal[DirtyEntry],
        writeback: WriteBack,
        max_age: float,
        stopping: Callable[[], bool],
        clock: CorrectedClock,
    ) -> None:
        self.registrations: list[Registration] = []
        self.ring_epoch: Callable[[], int] | None = None
        self.concerns: list[Concern] = []
        self._node = node
        self._origin = origin
        self._calls = calls
        self._bucket_check = bucket_check
        self._journal = journal
        self._writeback = writeback
        self.max_age = max_age
        self._stopping = stopping
        self._clock = clock
        self._started = clock.now()

    @property
    def joined(self) -> bool:
        """Whether the node is in the ring of some router."""
        return any(each.joined for each in self.registrations)

    def not_ready(self) -> list[str]:
        """The reasons, in words; empty when the node is ready."""
        reasons = ["stopping"] if self._stopping() else []
        if self._bucket_check.problem:
            reasons.append(self._bucket_check.problem)
        if self.ring_epoch is not None and not self.ring_epoch():
            reasons.append("no ring known yet: the Redis door cannot tell whose keys are whose")
        for concern in self.concerns:
            reasons += concern.not_ready()
        return reasons + [f"not joined: router {each.router}" for each in self.registrations if not each.joined]

    @property
    def oldest(self) -> float:
        """For how many seconds the oldest dirty entry has been on its way to S3; 0 if there is none."""
        now = self._clock.now()
        return now - self._node.dirty.oldest_since(now)

    @property
    def damaged(self) -> int:
        """Records of the journal that are not what was written."""
        return self._journal.quarantined + self._node.dirty.damaged

    def degraded(self) -> list[str]:
        """What an operator should look at, though the node serves."""
        dirty = self._node.dirty
        reasons = []
        if self.oldest > self.max_age:
            reasons.append(
                f"write-back: {len(dirty)} acknowledged writes are not in S3, the oldest for {self.oldest:.0f} s "
                f"(DIRTY_MAX_AGE_SECONDS is {self.max_age:g})"
            )
        if self._journal.full:
            reasons.append("journal: its disk is full, writes go through to S3")
        if self.damaged:
            reasons.append(f"journal: {self.damaged} damaged records (`milena journal verify`)")
        if dirty.dead_letters:
            reasons.append(
                f"write-back: S3 refuses {dirty.dead_letters} writes for good (`milena writeback failed`)"
            )
        for concern in self.concerns:
            reasons += concern.degraded()
        return reasons + self._clock.degraded() + self._writeback.failing.degraded(self._clock.now())

    @property
    def stuck(self) -> int:
        """How many dirty keys fail again and again while others reach S3."""
        return self._writeback.failing.number_stuck(self._clock.now())

    @property
    def clock_skew(self) -> float:
        """By how many seconds this machine's time of day is ahead of S3's; 0 as long as that is not known."""
        return self._clock.skew

    def for_routers(self) -> NodeStatus:
        """What goes with each renewal of a lease, so that routers know it if this node is lost."""
        dirty = self._node.dirty
        return NodeStatus(len(dirty), dirty.dead_letters, shortened(self.degraded()))

    def values(self) -> dict[str, float]:
        """Counts since the start, and sizes now."""
        reads, memory, dirty = self._node.reads, self._node.memory, self._node.dirty
        return {
            "hits": reads.hits,
            "misses": reads.misses,
            "hit_bytes": reads.hit_bytes,
            "miss_bytes": reads.miss_bytes,
            "requests": self._calls.requests,
            "errors": self._calls.errors,
            "entries": len(memory),
            "bytes": memory.bytes,
            "capacity_entries": memory.max_entries,
            "capacity_bytes": memory.max_bytes,
            "evictions": sum(memory.evictions.values()),
            "s3_requests": self._origin.total(),
            "s3_gets": self._origin.total("get"),
            "dirty_entries": len(dirty),
            "dirty_bytes": dirty.bytes,
            "dirty_limit_bytes": dirty.max_bytes,
            "dirty_oldest_seconds": self.oldest,
            "dead_letters": dirty.dead_letters,
            "stuck_writes": self.stuck,
            "journal_full": float(self._journal.full),
            "writeback_last_success_timestamp": self._writeback.last_success,
            "uptime_seconds": self._clock.now() - self._started,
        }
