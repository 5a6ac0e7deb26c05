"""Pure. The command that stands for every one that there is not, and for those that were not read."""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.dispatch.admission import no_room
from milena_cache.servers.resp.dispatch.command import Command, CommandError
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.keys import check_value_size
from milena_common.resp.parser import NoRoom, TooLong


def _unknown(context: Context, session: Session, argv: list[bytes]) -> Any:
    """What Redis says of a command that it does not know."""
    if isinstance(argv[0], TooLong):
        check_value_size(argv[0].size, context.config.max_value_bytes)
    if isinstance(argv[0], NoRoom):
        raise no_room(context.budget.used, context.budget.limit, context.timeout)
    shown = ""
    for word in argv[1:]:
        if len(shown) >= 128:
            break
        shown += f"'{word[: 128 - len(shown)].decode(errors='replace')}' "
    name = argv[0][:128].decode(errors="replace")
    raise CommandError(f"ERR unknown command '{name}', with args beginning with: {shown}")


# Stands for every command that there is not.
UNKNOWN = Command("", _unknown, -1)
