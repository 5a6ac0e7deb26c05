"""Pure. The node's status: the reasons why it is not ready or degraded, and its metrics by name.

Health checks, the Stats method, INFO and the renewals of the lease read it. It keeps nothing: each call reads the
parts of the node as they are at that time.
"""

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
from milena_cache.writeback.failing import Failing
from milena_cache.writeback.loop import WriteBack
from milena_common.cluster.missing_node import NodeStatus, shortened
from milena_common.metrics.call_counts import CallCounts


class Concern(Protocol):
    """A part of the node with reasons of its own for the node not to be ready, or to be degraded."""

    def not_ready(self) -> list[str]:
        """Return the reasons why the node should not get requests; empty if there are none."""

    def degraded(self) -> list[str]:
        """Return what an operator should look at although the node serves; empty if there is nothing."""


class Status:
    """The status of one node.

    registrations: one for each coordinator
    ring_epoch: returns the newest ring's epoch, 0 if none is known; None for a node that needs no ring
    concerns: further parts whose reasons are reported
    max_age: seconds after which an acknowledged write that is not in S3 makes the node degraded
    unpromoted: returns the number of writes of own slots that are not dirty entries yet, see `Promotion.unpromoted`
    """

    def __init__(
        self,
        node: Node,
        origin: OriginCounts,
        calls: CallCounts,
        bucket_check: BucketCheck,
        journal: Journal[DirtyEntry],
        writeback: WriteBack,
        failing: Failing,
        max_age: float,
        stopping: Callable[[], bool],
        clock: CorrectedClock,
    ) -> None:
        self.registrations: list[Registration] = []
        self.ring_epoch: Callable[[], int] | None = None
        self.concerns: list[Concern] = []
        self.unpromoted: Callable[[], int] = lambda: 0
        self._node = node
        self._origin = origin
        self._calls = calls
        self._bucket_check = bucket_check
        self._journal = journal
        self._writeback = writeback
        self._failing = failing
        self.max_age = max_age
        self._stopping = stopping
        self._clock = clock
        self._started = clock.now()

    @property
    def joined(self) -> bool:
        """True if the node is in the ring of at least one coordinator."""
        return any(each.joined for each in self.registrations)

    def not_ready(self) -> list[str]:
        """Return the reasons why the node is not ready; empty if it is."""
        reasons = ["stopping"] if self._stopping() else []
        if self._bucket_check.problem:
            reasons.append(self._bucket_check.problem)
        if self.ring_epoch is not None and not self.ring_epoch():
            reasons.append("no ring known yet: the RESP server does not know which node owns which keys")
        for concern in self.concerns:
            reasons += concern.not_ready()
        return reasons if self.joined else reasons + self._not_joined()

    def _not_joined(self) -> list[str]:
        return [f"not joined: router {each.router}" for each in self.registrations if not each.joined]

    @property
    def oldest(self) -> float:
        """Return the age in seconds of the oldest dirty entry; 0 if there is none."""
        now = self._clock.now()
        return now - self._node.dirty.oldest_since(now)

    @property
    def damaged(self) -> int:
        """Return how many records of the journal are damaged."""
        return self._journal.quarantined + self._node.dirty.damaged

    def degraded(self) -> list[str]:
        """Return what an operator should look at although the node serves; empty if there is nothing."""
        dirty = self._node.dirty
        reasons = []
        if self.oldest > self.max_age:
            reasons.append(
                f"write-back: {dirty.waiting} acknowledged writes are not in S3, the oldest for {self.oldest:.0f} "
                f"s (DIRTY_MAX_AGE_SECONDS is {self.max_age:g})"
            )
        if self._journal.full:
            reasons.append("journal: its disk is full, writes go through to S3")
        if self.damaged:
            reasons.append(f"journal: {self.damaged} damaged records (`milena journal verify`)")
        if dirty.dead_letters:
            reasons.append(
                f"write-back: S3 has rejected {dirty.dead_letters} writes permanently (`milena writeback failed`)"
            )
        for concern in self.concerns:
            reasons += concern.degraded()
        if self.joined:
            reasons += self._not_joined()  # it has joined another router
        return reasons + self._clock.degraded() + self._failing.degraded(self._clock.now())

    @property
    def stuck(self) -> int:
        """Return how many dirty keys fail again and again while others reach S3."""
        return self._failing.number_stuck(self._clock.now())

    @property
    def clock_skew(self) -> float:
        """Return by how many seconds this machine's clock is ahead of S3's; 0 while that is not known."""
        return self._clock.skew

    def for_routers(self) -> NodeStatus:
        """Return what is sent with each renewal of a lease, so that routers have it if this node is lost."""
        dirty = self._node.dirty
        # A node that leaves with none is taken for one of whose slots S3 has everything.
        writes = dirty.waiting + self.unpromoted()
        return NodeStatus(writes, dirty.dead_letters, shortened(self.degraded()))

    def values(self) -> dict[str, float]:
        """Return the metrics by name: counts since the start of the process, and current sizes."""
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
            "dirty_entries": dirty.waiting,
            "dirty_bytes": dirty.bytes,
            "dirty_limit_bytes": dirty.max_bytes,
            "dirty_oldest_seconds": self.oldest,
            "dead_letters": dirty.dead_letters,
            "stuck_writes": self.stuck,
            "journal_full": float(self._journal.full),
            "writeback_last_success_timestamp": self._writeback.last_success,
            "uptime_seconds": self._clock.now() - self._started,
        }
