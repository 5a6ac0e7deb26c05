"""Coordination. COPY, RENAME and RENAMENX: a value under another key of the same slot.

Both keys are written together or not at all, see `deciding`.
"""

from __future__ import annotations

from milena_cache.servers.resp.commands.data.deciding import handler_of
from milena_cache.servers.resp.decisions import keys
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.state.context import Context

_BOTH = (1, 2, 1)

COMMANDS = CommandTable[Context](access="modify", keys=_BOTH, operation="put", categories=("keyspace",))

for _name, _arity, _decide, _since, _flags, _summary in (
    ("copy", -3, keys.copy, "6.2.0", ("denyoom",), "Copies the value of a key to a new key."),
    ("rename", 3, keys.rename, "1.0.0", (), "Renames a key and overwrites the destination."),
    (
        "renamenx",
        3,
        keys.renamenx,
        "1.0.0",
        ("fast",),
        "Renames a key only when the target key name doesn't exist.",
    ),
):
    COMMANDS.command(_name, arity=_arity, flags=_flags, since=_since, summary=_summary, decide=_decide)(
        handler_of(_decide, _BOTH)
    )
