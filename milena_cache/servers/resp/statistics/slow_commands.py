"""Pure. Records slow commands in the slow log and the latency monitor.

Both have thresholds of their own, which CONFIG SET changes. `after` is the smaller one, so that a command that is
not slow costs one comparison.
"""

from __future__ import annotations

from math import inf

from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.statistics.latency_monitor import LatencyMonitor
from milena_cache.servers.resp.statistics.slow_log import SlowLog


class SlowCommands:
    """The slow commands of one node.

    log, latency: what SLOWLOG and LATENCY show; call `thresholds_changed` after a change of their thresholds
    after: seconds from which on a command goes to at least one of them
    """

    def __init__(self) -> None:
        self.log = SlowLog()
        self.latency = LatencyMonitor()
        self.after = 0.0
        self.thresholds_changed()

    def thresholds_changed(self) -> None:
        log, latency = self.log, self.latency
        self._log_after = log.slower_than / 1e6 if log.slower_than >= 0 else inf
        self._latency_after = latency.threshold / 1000 if latency.threshold else inf
        self.after = min(self._log_after, self._latency_after)

    def add(self, wall: float, took: float, argv: list[bytes], session: Session) -> None:
        """Record a command that took `took` seconds until `wall`, in seconds since 1970."""
        if took >= self._log_after:
            self.log.add(wall - took, took, argv, session.addr, session.name)
        if took >= self._latency_after:
            self.latency.add(wall, took)
