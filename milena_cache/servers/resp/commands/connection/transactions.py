"""Pure. MULTI, EXEC and their relatives: there are no transactions yet, and a client that begins one writes
nothing.

Clients send MULTI, the commands and EXEC in one piece, before they read any answer. So it is not enough to refuse
MULTI: what follows would be carried out, while the client reports that the transaction failed. Every command
between MULTI and EXEC or DISCARD is refused, and EXEC answers as Redis does after a command that had an error.

MULTI itself is accepted. A client that waits for its answer and gets an error takes the transaction as never begun:
it sends neither EXEC nor DISCARD, and the next user of its connection, out of a pool or of ioredis's only one,
would find everything refused.
"""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.admission import NO_TRANSACTIONS
from milena_cache.servers.resp.dispatch.command import Command, CommandError
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import OK, Raw

_EMPTY_ARRAY = Raw(b"*0\r\n")


def multi(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Begin a transaction, in which every command is refused up to EXEC or DISCARD."""
    session.in_transaction = True
    return Raw(OK)


def exec_(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """End the transaction: an empty array if it had no command. Raises Refused otherwise, or if there is none."""
    if not session.in_transaction:
        raise CommandError("ERR EXEC without MULTI")
    not_supported = session.transaction_rejected
    session.end_transaction()
    if not_supported:
        raise CommandError("EXECABORT Transaction discarded because of previous errors.")
    return _EMPTY_ARRAY


def discard(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """End the transaction. Raises Refused if there is none."""
    if not session.in_transaction:
        raise CommandError("ERR DISCARD without MULTI")
    session.end_transaction()
    return Raw(OK)


def watch(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Refuse: without transactions it would promise a check that never happens. Raises Refused."""
    raise CommandError(f"ERR {NO_TRANSACTIONS}, so there is nothing that WATCH could guard")


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
        summary="Begins a transaction, of which every command is refused: there are no transactions yet.",
    ),
    Command(
        "exec",
        exec_,
        1,
        flags=("noscript", "loading", "stale"),
        categories=_CATEGORIES,
        group="transactions",
        since="1.2.0",
        summary="Ends a transaction, of which nothing is carried out.",
    ),
    Command(
        "discard",
        discard,
        1,
        flags=_FLAGS,
        categories=_CATEGORIES,
        group="transactions",
        since="2.0.0",
        summary="Ends a transaction, of which nothing is carried out.",
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
