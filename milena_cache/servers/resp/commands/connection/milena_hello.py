"""Pure. MILENA.HELLO: the handshake with which Milena's own connections name the node for which they are meant.

An address may belong to another process than the ring has there, after a restart or a move: without the comparison
writes would be acknowledged by a node of another cluster or bucket.
"""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.identity import Identity
from milena_common.runtime.clock import monotonic_ms

COMMANDS = CommandTable[Context]()


@COMMANDS.command(
    "milena.hello",
    arity=4,
    flags=("noscript", "loading", "stale", "fast"),
    categories=("connection",),
    group="connection",
    since="7.0.0",
    summary="Rejects the connection unless it is for this cluster, bucket and node; returns the node's time.",
)
def hello(context: Context, session: Session, argv: list[bytes]) -> int:
    """Check `MILENA.HELLO cluster bucket node`, where "" is not compared, and return this node's monotonic time.

    It is in milliseconds; the caller computes the deadlines of its calls from it (`milena_common.resp.peer_clock`).
    Raises WrongNode.

    After an error the connection closes, and the commands behind this one are not read: they were sent together
    with it, and were meant for another node.
    """
    session.forwards = False
    meant = Identity(*(word.decode(errors="replace") for word in argv[1:]))
    try:
        context.requests.check_identity(meant)
    except BaseException:
        session.closing = True
        raise
    session.identified = bool(meant.cluster_id and meant.node_id)
    return monotonic_ms(context.clock)
