"""Coordination. Commands on the server as a whole: TIME, ROLE, DEBUG SLEEP, and ASKING, READONLY, READWRITE.

The last three are accepted without effect, because clients of Redis Cluster send them.
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.dispatch.command import Command, CommandError
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.subcommands import no_handler
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import OK, Raw

# Bounded, because a command that sleeps goes on after its connection has closed.
MAX_SLEEP_SECONDS = 60.0


def time(context: Context, session: Session, argv: list[bytes]) -> list[str]:
    microseconds = int(context.clock.wall() * 1e6)
    return [str(microseconds // 10**6), str(microseconds % 10**6)]


def role(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    return ["master", 0, []]


def accepted(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Return OK: the command makes no difference, since every node serves its own slots only."""
    return Raw(OK)


def sleep(context: Context, session: Session, argv: list[bytes]) -> Any:
    try:
        seconds = float(argv[2])
    except ValueError:
        seconds = 0.0
    if not seconds <= MAX_SLEEP_SECONDS:  # not true of NaN either
        raise CommandError(f"ERR allowed are at most {MAX_SLEEP_SECONDS:g} seconds")
    return _after(context, seconds)


async def _after(context: Context, seconds: float) -> Raw:
    await context.clock.sleep(max(0.0, seconds))
    return Raw(OK)


_CLUSTER = ("fast",)
COMMANDS = (
    Command(
        "time",
        time,
        1,
        flags=("loading", "stale", "fast"),
        group="server",
        since="2.6.0",
        summary="Returns the server time.",
    ),
    Command(
        "role",
        role,
        1,
        flags=("noscript", "loading", "stale", "fast"),
        categories=("@admin", "@dangerous"),
        group="server",
        since="2.8.12",
        summary="Returns the replication role.",
    ),
    *(
        Command(
            name,
            accepted,
            1,
            flags=_CLUSTER,
            categories=("@connection",),
            group="cluster",
            since="3.0.0",
            summary="Has no effect: a node serves its own slots only, and there are no replicas.",
        )
        for name in ("asking", "readonly", "readwrite")
    ),
    Command("debug", no_handler, -2, group="server", summary="A container for debugging commands."),
    Command(
        "debug|sleep",
        sleep,
        3,
        flags=("admin", "noscript", "loading", "stale"),
        group="server",
        usage="<seconds>",
        summary="Replies after so many seconds; only later replies on this connection wait for it.",
    ),
)
