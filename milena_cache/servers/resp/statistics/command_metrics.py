"""Coordination. What is counted of every command, and how an error becomes an answer.

One entry for each answer: the operation's counts and durations, which the metrics show; the command's, which INFO
shows; and the slow log.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from milena_cache.servers.resp.dispatch.command import Command, CommandError
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.statistics.command_stats import CommandStats
from milena_cache.servers.resp.statistics.slow_commands import SlowCommands
from milena_common.api.errors import InternalError, InvalidRequest, MilenaError, Moved
from milena_common.metrics.call_counts import CallCounts
from milena_common.resp.encoding import error_line
from milena_common.resp.errors import to_resp
from milena_common.rpc.status import to_grpc
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)


class CommandMetrics:
    """Of one door. It is on the way of every command but those GETs that are answered many at once."""

    def __init__(self, calls: CallCounts, stats: CommandStats, slow: SlowCommands, clock: Clock) -> None:
        self._operations = calls.by_operation
        self._stats = stats
        self._slow = slow
        self._now = clock.now
        self._clock = clock

    def replied(
        self, command: Command[Any], name: str, argv: list[bytes], session: Session, started: float
    ) -> None:
        """A command has its answer. `name` is its own or its subcommand's, `started` when it came."""
        took = self._now() - started
        counts = self._operations[command.operation_of(argv)]
        # A command of many keys is that many reads, or writes: each has its outcome.
        number = 1 if command.keys[1] >= 0 else len(command.keys_in(argv)) or 1
        counts.requests += number
        counts.durations.observe_many(took, number)
        counted = self._stats[name]
        counted.calls += 1
        counted.seconds += took
        if took >= self._slow.after:
            self._slow.add(self._clock.wall(), took, argv, session)

    def error_reply(
        self, error: BaseException, command: Command[Any], name: str, argv: list[bytes], *, begun: bool = True
    ) -> bytes:
        """The line that answers a command which raised `error`; `begun`: what the command does had begun."""
        line, code = _line(error)
        counts = self._operations[command.operation_of(argv)]
        if isinstance(error, Moved):
            counts.moved += 1
        else:
            counts.failed(code)
        counted = self._stats[name]
        if begun:
            counted.failed += 1
        else:
            counted.rejected += 1
            counted.calls -= 1  # `replied` counts it
        self._stats.erred(line)
        return line


def _line(error: BaseException) -> tuple[bytes, str]:
    """The answer, and the gRPC status that the metrics have it under."""
    if isinstance(error, CommandError):
        return error_line(str(error)), to_grpc(InvalidRequest())[0].name.lower()
    if isinstance(error, asyncio.CancelledError):
        return error_line("UNAVAILABLE the node is stopping"), "cancelled"
    if not isinstance(error, MilenaError):
        log.error("a command failed by a defect of this program", exc_info=error)
        error = InternalError("a defect of Milena; the process's log has the details")
    return error_line(to_resp(error)), to_grpc(error)[0].name.lower()
