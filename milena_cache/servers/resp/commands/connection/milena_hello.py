"""Pure. MILENA.HELLO: the handshake by which Milena's own connections say which node they mean."""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.identity import Identity


def hello(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """`MILENA.HELLO cluster bucket node`; an empty one is not compared. Raises WrongNode, and ends the connection.

    What the client has sent behind it is not read any more: it was meant for another node.
    """
    meant = Identity(*(word.decode(errors="replace") for word in argv[1:]))
    try:
        context.identity.check(meant)
    except BaseException:
        session.closing = True
        raise
    return Raw(OK)


COMMANDS = (
    Command(
        "milena.hello",
        hello,
        4,
        flags=("noscript", "loading", "stale", "fast"),
        categories=("@connection",),
        group="connection",
        since="7.0.0",
        summary="Refuses the connection unless it is for this cluster, bucket and node.",
    ),
)
