"""Coordination. HOTKEYS: the keys with the most reads, as Valkey has it since 9.2, and those with the most bytes.

Valkey samples accesses of any kind, and has it switched on; here reads are sampled, always. GET without an argument
has Valkey's reply. A client is shown the keys that it may see, as by SCAN.
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.redis_replies import SYNTAX, CommandError, wrong_arity

COMMANDS = CommandTable[Context](flags=("admin", "loading", "stale"), group="server")

COMMANDS.parent(
    "hotkeys",
    group="server",
    since="9.2.0",
    summary="A container for hot key commands.",
)


@COMMANDS.command(
    "hotkeys|get",
    arity=-2,
    since="9.2.0",
    complexity="O(N) where N is the number of hot keys returned",
    usage="[REQUESTS | BYTES]",
    summary="Returns the hottest keys of the last window: key, db and reads a second, or bytes a second.",
)
def get(context: Context, session: Session, argv: list[bytes]) -> Any:
    if len(argv) > 3:
        raise wrong_arity("hotkeys|get")
    by = argv[2].upper() if len(argv) == 3 else b"REQUESTS"
    if by not in (b"REQUESTS", b"BYTES"):
        raise CommandError(SYNTAX)
    view = context.api.samples.hot_keys.view()
    may_see = context.permissions.may_see
    if by == b"BYTES":
        return [
            {b"key": each.key, b"db": 0, b"bytes": round(each.read_bytes)}
            for each in view.by_bytes
            if may_see(session, "hotkeys|get", each.key)
        ]
    return [
        {b"key": each.key, b"db": 0, b"qps": round(each.reads)}
        for each in view.by_reads
        if may_see(session, "hotkeys|get", each.key)
    ]


@COMMANDS.command(
    "hotkeys|reset",
    arity=2,
    since="9.2.0",
    summary="Forgets the reads that were counted, and begins a window.",
)
def reset(context: Context, session: Session, argv: list[bytes]) -> Raw:
    context.api.samples.hot_keys.begin_anew()
    return Raw(OK)
