"""Pure. MULTI, EXEC and their relatives: there are no transactions yet, and no command of one is carried out.

It is not enough to reject MULTI: (1) a client sends MULTI, SET and EXEC in one write, before it reads a reply; (2)
MULTI is rejected, and the SET behind it is done as an ordinary command; (3) the client reports that the transaction
failed. So every command between MULTI and EXEC or DISCARD is rejected, and EXEC replies as Redis does after a
command with an error.

MULTI itself is accepted. A client that waits for its reply and gets an error takes the transaction for never begun:
it sends neither EXEC nor DISCARD, and every later command on this connection, which may come from a pool or be
ioredis's only one, would be rejected.
"""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.admission import NO_TRANSACTIONS
from milena_cache.servers.resp.dispatch.command import ALL_KEYS
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.redis_replies import CommandError

_EMPTY_ARRAY = Raw(b"*0\r\n")


COMMANDS = CommandTable[Context](categories=("transaction",), group="transactions")


@COMMANDS.command(
    "multi",
    arity=1,
    flags=("noscript", "loading", "stale", "fast", "allow_busy"),
    since="1.2.0",
    summary="Begins a transaction, of which every command is rejected: there are no transactions yet.",
)
def multi(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Begin a transaction, in which every command is rejected up to EXEC or DISCARD."""
    session.in_transaction = True
    return Raw(OK)


@COMMANDS.command(
    "exec",
    arity=1,
    flags=("noscript", "loading", "stale"),
    since="1.2.0",
    summary="Ends a transaction, of which nothing is carried out.",
    allowed_in_transaction=True,
)
def exec_(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """End the transaction; return an empty array if it had no command.

    Raises CommandError if it had one, or if there is no transaction.
    """
    if not session.in_transaction:
        raise CommandError("ERR EXEC without MULTI")
    not_supported = session.transaction_rejected
    session.end_transaction()
    if not_supported:
        raise CommandError("EXECABORT Transaction discarded because of previous errors.")
    return _EMPTY_ARRAY


@COMMANDS.command(
    "discard",
    arity=1,
    flags=("noscript", "loading", "stale", "fast", "allow_busy"),
    since="2.0.0",
    summary="Ends a transaction, of which nothing is carried out.",
    allowed_in_transaction=True,
)
def discard(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """End the transaction. Raises CommandError if there is none."""
    if not session.in_transaction:
        raise CommandError("ERR DISCARD without MULTI")
    session.end_transaction()
    return Raw(OK)


@COMMANDS.command(
    "watch",
    arity=-2,
    keys=ALL_KEYS,
    flags=("noscript", "loading", "stale", "fast", "allow_busy"),
    since="2.2.0",
    summary="Is rejected: there are no transactions.",
)
def watch(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Raise CommandError: without transactions WATCH would promise a check that never happens."""
    raise CommandError(f"ERR {NO_TRANSACTIONS}, so there is nothing that WATCH could guard")


@COMMANDS.command(
    "unwatch",
    arity=1,
    flags=("noscript", "loading", "stale", "fast", "allow_busy"),
    since="2.2.0",
    summary="Has no effect: no key is watched.",
)
def unwatch(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Return OK: no key is watched."""
    return Raw(OK)
