"""Pure. The node's state for those who ask: why it is not ready, and its figures by name."""

from __future__ import annotations

from collections.abc import Callable

from milena_cache.bucket_watch import BucketWatch
from milena_cache.node import Node
from milena_cache.origin import OriginCounts
from milena_cache.registration import Registration
from milena_common.calls import CallCounts
from milena_common.clock import Clock


class Report:
    """Reads the parts at the moment it is asked. `registrations` has one for each router."""

    def __init__(
        self,
        node: Node,
        origin: OriginCounts,
        calls: CallCounts,
        watch: BucketWatch,
        stopping: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self.registrations: list[Registration] = []
        self._node = node
        self._origin = origin
        self._calls = calls
        self._watch = watch
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
        if self._watch.problem:
            reasons.append(self._watch.problem)
        return reasons + [f"not joined: router {each.router}" for each in self.registrations if not each.joined]

    def values(self) -> dict[str, float]:
        """Counts since the start, and sizes now."""
        reads, memory = self._node.reads, self._node.memory
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
            "uptime_seconds": self._clock.now() - self._started,
        }
