"""Coordination. The metrics of every command, and the conversion of errors to replies.

Each reply is counted once: in the operation's counts and durations, which the metrics export, in the command's,
which INFO shows, and in the slow log if it took long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.statistics.command_stats import CommandStats
from milena_cache.servers.resp.statistics.slow_commands import SlowCommands
from milena_common.api.errors import InternalError, InvalidRequest, MilenaError, Moved
from milena_common.metrics.call_counts import CallCounts
from milena_common.resp.encoding import error_line
from milena_common.resp.errors import over_kind, to_resp
from milena_common.resp.redis_replies import CommandError
from milena_common.rpc.status import to_grpc
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)


class CommandMetrics:
    """The metrics of one server's commands. The fast paths do not call it; they count in the same places."""

    def __init__(self, calls: CallCounts, stats: CommandStats, slow: SlowCommands, clock: Clock) -> None:
        self._operations = calls.by_operation
        self._stats = stats
        self._slow = slow
        self._now = clock.now
        self._clock = clock

    def replied(
        self, command: Command[Any], name: str, argv: list[bytes], session: Session, started: float
    ) -> None:
        """Count a command that has its reply.

        `name`: the command's or subcommand's; `started`: when it began, monotonic seconds.
        """
        took = self._now() - started
        counts = self._operations[command.operation_of(argv)]
        # A command on many keys counts as that many operations, since each key has an outcome of its own.
        number = 1 if command.keys[1] >= 0 else len(command.keys_in(argv)) or 1
        counts.requests += number
        counts.durations.observe_many(took, number)
        counted = self._stats[name]
        counted.calls += 1
        counted.seconds += took
        if took >= self._slow.after:
            self._slow.add(self._clock.wall(), took, argv, session)

    def replied_many(
        self, command: Command[Any], argvs: Sequence[list[bytes]], session: Session, started: float
    ) -> None:
        """Count commands on one key each that have their replies, and began together at `started`."""
        took = self._now() - started
        number = len(argvs)
        counts = self._operations[command.operation]
        counts.requests += number
        counts.durations.observe_many(took, number)
        counted = self._stats[command.name]
        counted.calls += number
        counted.seconds += took * number
        if took >= self._slow.after:
            wall = self._clock.wall()
            for argv in argvs:
                self._slow.add(wall, took, argv, session)

    def error_reply(
        self,
        error: BaseException,
        command: Command[Any],
        name: str,
        argv: list[bytes],
        *,
        begun: bool = True,
        encrypted: bool = False,
    ) -> bytes:
        """Return the error reply for a command that raised `error`, and count it.

        `begun`: False if the command was rejected before its handler was called. `encrypted`: True if the client's
        connection uses TLS, as that to another node then does. `replied` is called as well.
        """
        if isinstance(error, Moved):
            error = over_kind(error, encrypted)
        line, code = encoded_error(error)
        counts = self._operations[command.operation_of(argv)]
        if isinstance(error, Moved):
            counts.moved += 1
        else:
            counts.count_error(code)
        counted = self._stats[name]
        if begun:
            counted.failed += 1
        else:
            counted.rejected += 1
            counted.calls -= 1  # `replied` adds one, and INFO does not count rejected commands as calls
        self._stats.erred(line)
        return line


def encoded_error(error: BaseException) -> tuple[bytes, str]:
    """Return the reply, and the gRPC status under which the metrics count it."""
    if isinstance(error, CommandError):
        return error_line(str(error)), to_grpc(InvalidRequest())[0].name.lower()
    if isinstance(error, asyncio.CancelledError):
        return error_line("UNAVAILABLE the node is stopping"), "cancelled"
    if not isinstance(error, MilenaError):
        log.error("a command failed by a defect of this program", exc_info=error)
        error = InternalError("a defect of Milena; the process's log has the details")
    return error_line(to_resp(error)), to_grpc(error)[0].name.lower()
