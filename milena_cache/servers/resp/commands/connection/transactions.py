"""Pure. MULTI, EXEC and their relatives: there are no transactions yet, and a client that begins one writes
nothing.

Clients send MULTI, the commands and EXEC in one piece, before they read any answer. So it is not enough to refuse
MULTI: what follows would be carried out, while the client reports that the transaction failed. Everything up to
EXEC or DISCARD is refused, and EXEC answers as Redis does for a transaction that had an error.
"""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.command import Command, CommandError
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import OK, Raw

NOT_SUPPORTED = "ERR transactions are not supported"


def multi(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Refuse, and from now on everything up to EXEC or DISCARD. Raises Refused."""
    session.rejecting = True
    raise CommandError(f"{NOT_SUPPORTED}: everything up to EXEC or DISCARD is refused")


def exec_(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """End the refused transaction. Raises Refused."""
    if not session.rejecting:
        raise CommandError("ERR EXEC without MULTI")
    session.rejecting = False
    raise CommandError("EXECABORT Transaction discarded because of previous errors.")


def discard(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """End the refused transaction. Raises Refused if there is none."""
    if not session.rejecting:
        raise CommandError("ERR DISCARD without MULTI")
    session.rejecting = False
    return Raw(OK)


def watch(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Refuse: without transactions it would promise a check that never happens. Raises Refused."""
    raise CommandError(f"{NOT_SUPPORTED}, so there is nothing that WATCH could guard")


def unwatch(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Accept: no key is watched, which is what the client wants."""
    return Raw(OK)


_FLAGS = ("noscript", "loading", "stale", "fast", "allow_busy")
_CATEGORIES = ("@transaction",)
COMMANDS = (
    Command(
        "multi",
        multi,
        1,
        flags=_FLAGS,
        categories=_CATEGORIES,
        group="transactions",
        since="1.2.0",
        summary="Is refused, with everything up to EXEC or DISCARD: there are no transactions.",
    ),
    Command(
        "exec",
        exec_,
        1,
        flags=("noscript", "loading", "stale"),
        categories=_CATEGORIES,
        group="transactions",
        since="1.2.0",
        summary="Ends a transaction that was refused.",
    ),
    Command(
        "discard",
        discard,
        1,
        flags=_FLAGS,
        categories=_CATEGORIES,
        group="transactions",
        since="2.0.0",
        summary="Ends a transaction that was refused.",
    ),
    Command(
        "watch",
        watch,
        -2,
        keys=(1, -1, 1),
        flags=_FLAGS,
        categories=_CATEGORIES,
        group="transactions",
        since="2.2.0",
        summary="Is refused: there are no transactions.",
    ),
    Command(
        "unwatch",
        unwatch,
        1,
        flags=_FLAGS,
        categories=_CATEGORIES,
        group="transactions",
        since="2.2.0",
        summary="Has no effect: no key is watched.",
    ),
)
