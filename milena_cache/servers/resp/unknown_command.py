"""Pure. The command in place of unknown commands, and of those whose arguments were not read.

The parser passes a command that is too long, or for which there was no room, as one with a marker for its name, so
that its error takes its place among the replies.
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.dispatch.admission import no_room
from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.keys import check_value_size
from milena_common.resp.parser import NoRoom, TooLong
from milena_common.resp.redis_replies import unknown_command


def _unknown(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Raise the error for the command: with Redis's text, or why its arguments were not read."""
    if isinstance(argv[0], TooLong):
        check_value_size(argv[0].size, context.config.max_value_bytes)
    if isinstance(argv[0], NoRoom):
        raise no_room(context.budget.used, context.budget.limit, context.timeout)
    raise unknown_command(argv)


# In place of every command that is not in the registry.
UNKNOWN = Command("", _unknown, arity=-1)
