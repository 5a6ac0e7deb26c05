"""Pure. ACL WHOAMI: in whose name a connection makes its requests.

Redis's other subcommands of ACL change or show permissions, which do not exist here.
"""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.subcommands import no_handler
from milena_cache.servers.resp.state.context import Context


def whoami(context: Context, session: Session, argv: list[bytes]) -> str:
    return session.principal.name


COMMANDS = (
    Command(
        "acl",
        no_handler,
        -2,
        group="server",
        since="6.0.0",
        summary="A container for Access List Control commands.",
    ),
    Command(
        "acl|whoami",
        whoami,
        2,
        flags=("noscript", "loading", "stale"),
        group="server",
        since="6.0.0",
        summary="Returns the authenticated username of the current connection.",
    ),
)
