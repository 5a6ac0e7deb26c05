"""Coordination. Commands on the expiry of keys: TTL, EXPIRE, PERSIST and their relatives.

The expiry is in the object's metadata in S3, so that it holds on every node. A command that changes it therefore
writes the object anew, by an atomic read-modify-write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from milena_cache.objects.entry import Entry
from milena_cache.servers.resp.commands.data.deciding import handler_of
from milena_cache.servers.resp.commands.data.reading import look
from milena_cache.servers.resp.decisions.expiry import NO_EXPIRY, NO_KEY, expire_as, persist, reply_of_expiry
from milena_cache.servers.resp.decisions.timestamps import as_ms
from milena_cache.servers.resp.dispatch.command import ONE_KEY, Handler
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context

COMMANDS = CommandTable[Context](keys=ONE_KEY, flags=("fast",), categories=("keyspace",))


def _handler(make: Callable[[int, int], int]) -> Handler[Context]:
    """Return a handler that replies with `make(expires_at, now)`, both in milliseconds since 1970."""

    def handler(context: Context, session: Session, argv: list[bytes]) -> Any:
        def convert(entry: Entry, _: int) -> int:
            if entry.value is None:
                return NO_KEY
            return make(as_ms(entry.expires_at), as_ms(context.clock.wall())) if entry.expires_at else NO_EXPIRY

        return look(context, session, argv[1], convert)

    return handler


def _in_seconds(milliseconds: int) -> int:
    return (milliseconds + 500) // 1000


def _ttl(expires_at: int, now: int) -> int:
    return _in_seconds(max(0, expires_at - now))


def _pttl(expires_at: int, now: int) -> int:
    return max(0, expires_at - now)


def _expiretime(expires_at: int, now: int) -> int:
    return _in_seconds(expires_at)


def _pexpiretime(expires_at: int, now: int) -> int:
    return expires_at


for _name, _make, _since, _summary in (
    ("ttl", _ttl, "1.0.0", "Returns the expiration time in seconds of a key."),
    ("pttl", _pttl, "2.6.0", "Returns the expiration time in milliseconds of a key."),
    ("expiretime", _expiretime, "7.0.0", "Returns the expiration time of a key as a Unix timestamp."),
    (
        "pexpiretime",
        _pexpiretime,
        "7.0.0",
        "Returns the expiration time of a key as a Unix milliseconds timestamp.",
    ),
):
    COMMANDS.command(
        _name,
        arity=2,
        access="read",
        operation="get",
        since=_since,
        summary=_summary,
        decide=reply_of_expiry(_make),
    )(_handler(_make))

for _name, _in_s, _absolute, _since, _summary in (
    ("expire", True, False, "1.0.0", "Sets the expiration time of a key in seconds."),
    ("pexpire", False, False, "2.6.0", "Sets the expiration time of a key in milliseconds."),
    ("expireat", True, True, "1.2.0", "Sets the expiration time of a key to a Unix timestamp."),
    ("pexpireat", False, True, "2.6.0", "Sets the expiration time of a key to a Unix milliseconds timestamp."),
):
    _decide = expire_as(_name, seconds=_in_s, absolute=_absolute)
    COMMANDS.command(
        _name, arity=-3, access="modify", operation="put", since=_since, summary=_summary, decide=_decide
    )(handler_of(_decide))

COMMANDS.command(
    "persist",
    arity=2,
    access="modify",
    operation="put",
    since="2.2.0",
    summary="Removes the expiration time of a key.",
    decide=persist,
)(handler_of(persist))
