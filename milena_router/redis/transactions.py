"""Coordination. MULTI, EXEC, DISCARD, WATCH, UNWATCH at the router: it keeps the queue, a node carries it out.

The keys have one slot, and its owner gets the queue as one command (`milena_common.forwarding.transactions`).
Commands without keys are the router's own, and are carried out after that has succeeded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from typing import Any

from milena_common.api.errors import MilenaError
from milena_common.api.keys import SCHEME, check_key, split_cache_key
from milena_common.forwarding.routing import FORWARDED, Forwarded, canonical, check_one_slot, in_protocol
from milena_common.forwarding.transactions import (
    ABORTED,
    EXEC,
    NESTED,
    NOT_BEGUN,
    NOT_BEGUN_DISCARD,
    NOT_QUEUED,
    WATCH,
    WATCH_INSIDE,
    Transaction,
    check_options,
    check_watched,
    decode_replies,
    decode_watched,
    encode_exec,
    not_available,
)
from milena_common.resp.encoding import OK, NullArray, Raw, encode, error_line
from milena_common.resp.errors import to_resp
from milena_common.resp.redis_replies import CommandError
from milena_router.redis.context import Context, Local
from milena_router.redis.session import Session

QUEUED = b"+QUEUED\r\n"


def multi(context: Context, session: Session, argv: list[bytes]) -> Raw:
    if session.transaction is not None:
        raise CommandError(NESTED)
    session.transaction = Transaction()
    return Raw(OK)


def discard(context: Context, session: Session, argv: list[bytes]) -> Raw:
    if session.transaction is None:
        raise CommandError(NOT_BEGUN_DISCARD)
    session.end_transaction()
    return Raw(OK)


def unwatch(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.watched.clear()
    return Raw(OK)


def queue(context: Context, session: Session, known: Forwarded | Local, argv: list[bytes]) -> bytes:
    """Add a command to the transaction, and return the reply. Raises CommandError or MilenaError if it cannot be.

    It has the right number of arguments, and the client may run it.
    """
    transaction = session.transaction
    assert transaction is not None
    if isinstance(known, Local):
        if known.rejects:
            known.handler(context, session, argv)
        if not known.queued:
            raise not_available(known.name)
    else:
        if known.name in NOT_QUEUED:
            raise not_available(known.name)
        check_options(known.name, argv)
        if known.is_script:
            argv = context.scripts.with_source(argv)
            known = FORWARDED[argv[0].upper()]
        keys = known.keys_in(argv)
        for key in keys:
            check_key(split_cache_key(key)[1] if key.startswith(SCHEME) and key.isascii() else key)
        if keys:
            transaction.key = transaction.key or keys[0]
            default = context.default_bucket()
            _check_slots(context, [canonical(key, default) for key in (transaction.key, *keys)])
    transaction.queue(known, argv)
    return QUEUED


def _check_slots(context: Context, keys: list[bytes]) -> None:
    """Raise CommandError for keys of several slots, unless one node owns all slots."""
    if len(context.ring().members) > 1:
        check_one_slot(keys)


def watch(context: Context, session: Session, argv: list[bytes]) -> Raw | Awaitable[Raw]:
    """Remember what the keys are. Raises CommandError in a transaction and for too many keys, and MilenaError."""
    if session.transaction is not None:
        raise CommandError(WATCH_INSIDE)
    default = context.default_bucket()
    keys = list(dict.fromkeys(canonical(key, default) for key in argv[1:]))
    _check_slots(context, keys)
    keys = [key for key in keys if key not in session.watched]
    check_watched(len(session.watched) + len(keys))
    if not keys:
        return Raw(OK)
    session.executing = True
    return _remember(context, session, keys)


async def _remember(context: Context, session: Session, keys: list[bytes]) -> Raw:
    try:
        reply = await context.request(WATCH, keys, [b"MILENA.WATCH", *keys])
        session.watched.update(decode_watched(reply, keys))
        return Raw(OK)
    finally:
        session.executing = False


def exec_(context: Context, session: Session, argv: list[bytes]) -> Awaitable[Any]:
    """Carry the transaction out. Raises CommandError, and MilenaError: nothing was done, or all if it says so."""
    transaction, watched = session.transaction, session.watched
    if transaction is None:
        raise CommandError(NOT_BEGUN)
    session.end_transaction()
    if transaction.failed:
        raise CommandError(ABORTED)
    session.executing = True
    return _execute(context, session, transaction, watched)


async def _execute(
    context: Context, session: Session, transaction: Transaction[Any], watched: dict[bytes, bytes]
) -> NullArray | Raw:
    try:
        replies = await _carried_out(context, session, transaction, watched)
    finally:
        session.executing = False
    return NullArray() if replies is None else Raw(b"*%d\r\n%b" % (len(replies), b"".join(replies)))


async def _carried_out(
    context: Context, session: Session, transaction: Transaction[Any], watched: dict[bytes, bytes]
) -> list[bytes] | None:
    """Return the encoded replies to the commands; None if a watched key has changed."""
    default, protocol = context.default_bucket(), session.protocol
    with_keys = [each.argv for each in transaction.commands if isinstance(each.command, Forwarded)]
    keys = dict.fromkeys(watched)
    for command, argv in transaction.commands:
        if isinstance(command, Forwarded):
            keys.update(dict.fromkeys(canonical(key, default) for key in command.keys_in(argv)))
    following: Iterator[bytes] = iter(())
    if keys or with_keys:
        keys = keys or {b"": None}  # a script without keys runs at any node
        _check_slots(context, list(keys))
        started = context.clock.now()
        reply = await context.request(EXEC, list(keys), encode_exec(next(iter(keys)), watched, with_keys))
        done = decode_replies(reply)
        if done is None:
            return None
        took = context.clock.now() - started
        for command, _ in transaction.commands:
            if isinstance(command, Forwarded):
                counts = context.calls.by_operation[command.operation]
                counts.requests += 1
                counts.durations.observe(took)
        following = iter(done)
    return [
        in_protocol(next(following), protocol)
        if isinstance(command, Forwarded)
        else await _own(context, session, command, argv)
        for command, argv in transaction.commands
    ]


async def _own(context: Context, session: Session, command: Local, argv: list[bytes]) -> bytes:
    try:
        result = command.handler(context, session, argv)
        return encode(await result if isinstance(result, Awaitable) else result, session.protocol)
    except CommandError as error:
        return error_line(str(error))
    except MilenaError as error:
        return error_line(to_resp(error))
