"""Coordination. Commands on the server as a whole: TIME, ROLE, DEBUG SLEEP, and ASKING, READONLY, READWRITE.

The last three are accepted without effect, because clients of Redis Cluster send them.
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.redis_replies import CommandError

# Bounded, because a command that sleeps continues after its connection has closed.
MAX_SLEEP_SECONDS = 60.0


COMMANDS = CommandTable[Context](group="server")


@COMMANDS.command(
    "time",
    arity=1,
    flags=("loading", "stale", "fast"),
    since="2.6.0",
    summary="Returns the server time.",
)
def time(context: Context, session: Session, argv: list[bytes]) -> list[str]:
    microseconds = int(context.clock.wall() * 1e6)
    return [str(microseconds // 10**6), str(microseconds % 10**6)]


@COMMANDS.command(
    "role",
    arity=1,
    flags=("noscript", "loading", "stale", "fast"),
    categories=("admin", "dangerous"),
    since="2.8.12",
    summary="Returns the replication role.",
)
def role(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    return ["master", 0, []]


@COMMANDS.command(
    "readwrite",
    arity=1,
    flags=("fast",),
    categories=("connection",),
    group="cluster",
    since="3.0.0",
    summary="Has no effect: a node serves its own slots only, and there are no replicas.",
)
@COMMANDS.command(
    "readonly",
    arity=1,
    flags=("fast",),
    categories=("connection",),
    group="cluster",
    since="3.0.0",
    summary="Has no effect: a node serves its own slots only, and there are no replicas.",
)
@COMMANDS.command(
    "asking",
    arity=1,
    flags=("fast",),
    categories=("connection",),
    group="cluster",
    since="3.0.0",
    summary="Has no effect: a node serves its own slots only, and there are no replicas.",
)
def accepted(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Return OK, and redirect the client from now on: only clients of Redis Cluster send these."""
    session.forwards = False
    return Raw(OK)


COMMANDS.parent(
    "debug",
    group="server",
    summary="A container for debugging commands.",
)


@COMMANDS.command(
    "debug|sleep",
    arity=3,
    flags=("admin", "noscript", "loading", "stale"),
    usage="<seconds>",
    summary="Replies after so many seconds; only later replies on this connection wait for it.",
)
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
