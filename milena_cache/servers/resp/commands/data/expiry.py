"""Coordination. Commands on the expiry of keys: TTL, EXPIRE, PERSIST and their relatives.

The expiry is in the object's metadata in S3, so that it holds on every node. A command that changes it therefore
writes the object anew, by an atomic read-modify-write.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from milena_cache.memory.lru import Entry
from milena_cache.objects.names import Object
from milena_cache.reads.read_modify_write import DELETE, KEEP, Decide, NewValue, Otherwise
from milena_cache.servers.resp.commands.data.reading import look
from milena_cache.servers.resp.commands.data.timestamps import as_ms, as_timestamp, expiry_in_ms
from milena_cache.servers.resp.dispatch.command import ONE_KEY, Handler
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.redis_replies import CommandError

# Redis's replies for a key that does not exist, and for one without an expiry.
_NO_KEY, _NO_EXPIRY = -2, -1


COMMANDS = CommandTable[Context](keys=ONE_KEY, flags=("fast",), categories=("keyspace",))


def _reply_of_expiry(make: Callable[[int, int], int]) -> Handler[Context]:
    """Return a handler that replies with `make(expires_at, now)`, both in milliseconds since 1970."""

    def handler(context: Context, session: Session, argv: list[bytes]) -> Any:
        def convert(entry: Entry, _: int) -> int:
            if entry.value is None:
                return _NO_KEY
            return make(as_ms(entry.expires_at), as_ms(context.clock.wall())) if entry.expires_at else _NO_EXPIRY

        return look(context, session, argv[1], convert)

    return handler


def _in_seconds(milliseconds: int) -> int:
    return (milliseconds + 500) // 1000


@COMMANDS.command(
    "ttl",
    arity=2,
    access="read",
    operation="get",
    summary="Returns the expiration time in seconds of a key.",
)
@_reply_of_expiry
def ttl(expires_at: int, now: int) -> int:
    return _in_seconds(max(0, expires_at - now))


@COMMANDS.command(
    "pttl",
    arity=2,
    access="read",
    operation="get",
    since="2.6.0",
    summary="Returns the expiration time in milliseconds of a key.",
)
@_reply_of_expiry
def pttl(expires_at: int, now: int) -> int:
    return max(0, expires_at - now)


@COMMANDS.command(
    "expiretime",
    arity=2,
    access="read",
    operation="get",
    since="7.0.0",
    summary="Returns the expiration time of a key as a Unix timestamp.",
)
@_reply_of_expiry
def expiretime(expires_at: int, now: int) -> int:
    return _in_seconds(expires_at)


@COMMANDS.command(
    "pexpiretime",
    arity=2,
    access="read",
    operation="get",
    since="7.0.0",
    summary="Returns the expiration time of a key as a Unix milliseconds timestamp.",
)
@_reply_of_expiry
def pexpiretime(expires_at: int, now: int) -> int:
    return expires_at


@dataclass(slots=True)
class _Conditions:
    """The conditions for a change of the expiry.

    nx, xx: only if the key has no expiry, or has one
    gt, lt: only if the new expiry is later, or earlier, than the present one
    """

    nx: bool = False
    xx: bool = False
    gt: bool = False
    lt: bool = False

    def allow(self, current: float, expires_at: float) -> bool:
        """True if the expiry may change from `current` to `expires_at`, both in seconds since 1970.

        `current` 0 is no expiry, which counts as later than any.
        """
        if (self.nx and current) or (self.xx and not current):
            return False
        if self.gt and (not current or expires_at <= current):
            return False
        return not (self.lt and current and expires_at >= current)


def conditions(argv: list[bytes]) -> _Conditions:
    """Parse the options behind the time in `EXPIRE key time …`. Raises CommandError."""
    found = _Conditions()
    for word in argv:
        match word.upper():
            case b"NX":
                found.nx = True
            case b"XX":
                found.xx = True
            case b"GT":
                found.gt = True
            case b"LT":
                found.lt = True
            case _:
                raise CommandError(f"ERR Unsupported option {word[:128].decode(errors='replace')}")
    if found.nx and (found.xx or found.gt or found.lt):
        raise CommandError("ERR NX and XX, GT or LT options at the same time are not compatible")
    if found.gt and found.lt:
        raise CommandError("ERR GT and LT options at the same time are not compatible")
    return found


def _expire(context: Context, argv: list[bytes], name: str, *, seconds: bool, absolute: bool) -> Awaitable[int]:
    """Change the expiry of a key as the command `name` does.

    `seconds`: the time is in seconds, not milliseconds; `absolute`: it counts from 1970, not from now.
    """
    wished = conditions(argv[3:])
    now_ms = as_ms(context.clock.wall())
    expires_ms = expiry_in_ms(argv[2], name, now_ms, seconds=seconds, absolute=absolute, positive=False)
    expires_at = as_timestamp(expires_ms)
    target, owned_since = context.place(argv[1])

    def decide(entry: Entry) -> NewValue | Otherwise:
        if entry.value is None or not wished.allow(entry.expires_at, expires_at):
            return KEEP
        return NewValue(entry.value, expires_at, only_expiry=True) if expires_ms > now_ms else DELETE

    return _modify(context, target, owned_since, decide)


@COMMANDS.command(
    "expire",
    arity=-3,
    access="modify",
    operation="put",
    summary="Sets the expiration time of a key in seconds.",
)
def expire(context: Context, session: Session, argv: list[bytes]) -> Any:
    return _expire(context, argv, "expire", seconds=True, absolute=False)


@COMMANDS.command(
    "pexpire",
    arity=-3,
    access="modify",
    operation="put",
    since="2.6.0",
    summary="Sets the expiration time of a key in milliseconds.",
)
def pexpire(context: Context, session: Session, argv: list[bytes]) -> Any:
    return _expire(context, argv, "pexpire", seconds=False, absolute=False)


@COMMANDS.command(
    "expireat",
    arity=-3,
    access="modify",
    operation="put",
    since="1.2.0",
    summary="Sets the expiration time of a key to a Unix timestamp.",
)
def expireat(context: Context, session: Session, argv: list[bytes]) -> Any:
    return _expire(context, argv, "expireat", seconds=True, absolute=True)


@COMMANDS.command(
    "pexpireat",
    arity=-3,
    access="modify",
    operation="put",
    since="2.6.0",
    summary="Sets the expiration time of a key to a Unix milliseconds timestamp.",
)
def pexpireat(context: Context, session: Session, argv: list[bytes]) -> Any:
    return _expire(context, argv, "pexpireat", seconds=False, absolute=True)


@COMMANDS.command(
    "persist",
    arity=2,
    access="modify",
    operation="put",
    since="2.2.0",
    summary="Removes the expiration time of a key.",
)
def persist(context: Context, session: Session, argv: list[bytes]) -> Any:
    del session
    target, owned_since = context.place(argv[1])

    def decide(entry: Entry) -> NewValue | Otherwise:
        if entry.value is None or not entry.expires_at:
            return KEEP
        return NewValue(entry.value, only_expiry=True)

    return _modify(context, target, owned_since, decide)


async def _modify(context: Context, target: Object, owned_since: int, decide: Decide) -> int:
    """Return 1 if something was changed, else 0."""
    return int((await context.node.modify(target, decide, context.timeout, owned_since)).ack is not None)
