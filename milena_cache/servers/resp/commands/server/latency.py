"""Pure. LATENCY: the samples of slow commands, by the second.

There is one class of events, `command`: a command took `latency-monitor-threshold` milliseconds or more from its
beginning to its reply, waiting for S3 included.
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import Verbatim
from milena_common.resp.redis_replies import CommandError

COMMAND = "command"


COMMANDS = CommandTable[Context](flags=("admin", "noscript", "loading", "stale"), group="server")


COMMANDS.parent(
    "latency",
    group="server",
    since="2.8.13",
    summary="A container for latency diagnostics.",
)


@COMMANDS.command(
    "latency|latest",
    arity=2,
    since="2.8.13",
    summary="Returns the latest latency samples for all events.",
)
def latest(context: Context, session: Session, argv: list[bytes]) -> Any:
    monitor = context.slow.latency
    return [[COMMAND, *monitor.samples[-1], monitor.longest]] if monitor.samples else []


@COMMANDS.command(
    "latency|history",
    arity=3,
    since="2.8.13",
    usage="<event>",
    summary="Returns timestamp-latency samples for an event.",
)
def history(context: Context, session: Session, argv: list[bytes]) -> Any:
    return list(context.slow.latency.samples) if argv[2].lower() == COMMAND.encode() else []


@COMMANDS.command(
    "latency|reset",
    arity=-2,
    since="2.8.13",
    usage="[<event> ...]",
    summary="Resets the latency data for one or more events.",
)
def reset(context: Context, session: Session, argv: list[bytes]) -> int:
    names = [word.lower() for word in argv[2:]] or [COMMAND.encode()]
    return int(COMMAND.encode() in names and context.slow.latency.reset())


@COMMANDS.command(
    "latency|graph",
    arity=3,
    since="2.8.13",
    usage="<event>",
    summary="Returns a latency graph for an event.",
)
def graph(context: Context, session: Session, argv: list[bytes]) -> Verbatim:
    """Return a text graph with a bar for each sample. Raises CommandError if there are none."""
    monitor = context.slow.latency
    if argv[2].lower() != COMMAND.encode() or not monitor.samples:
        shown = argv[2].decode(errors="replace")
        raise CommandError(f"ERR No samples available for event '{shown}'")
    now = int(context.clock.wall())
    shortest = min(milliseconds for _, milliseconds in monitor.samples)
    lines = [f"{COMMAND} - high {monitor.longest} ms, low {shortest} ms (all time high {monitor.longest} ms)"]
    lines += [
        f"{now - second:6d} s ago {milliseconds:8d} ms {'#' * max(1, 50 * milliseconds // monitor.longest)}"
        for second, milliseconds in monitor.samples
        if monitor.longest
    ]
    return Verbatim("\n".join(lines) + "\n")


@COMMANDS.command(
    "latency|doctor",
    arity=2,
    since="2.8.13",
    summary="Returns a human-readable latency analysis report.",
)
def doctor(context: Context, session: Session, argv: list[bytes]) -> Verbatim:
    monitor = context.slow.latency
    if not monitor.threshold:
        return Verbatim(
            "Latency monitoring is disabled in this node. You may use "
            '"CONFIG SET latency-monitor-threshold <milliseconds>." in order to enable it.\n'
        )
    if not monitor.samples:
        return Verbatim(f"No command took {monitor.threshold} ms or more since the monitoring began.\n")
    times = [milliseconds for _, milliseconds in monitor.samples]
    said = (
        f"Commands took {monitor.threshold} ms or more in {len(times)} seconds: "
        f"{sum(times) / len(times):.0f} ms on average, {monitor.longest} ms at most. SLOWLOG GET shows which.\n"
        "A read that is not in memory, and a write in durability 'through', take as long as S3 does: "
        "INFO milena has both counts.\n"
    )
    reasons = context.status.degraded()
    return Verbatim(said + "".join(f"{reason}\n" for reason in reasons))
