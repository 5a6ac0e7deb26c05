"""Coordination. Commands on the expiry of keys: TTL, EXPIRE, PERSIST and their relatives.

The expiry is in the object's metadata in S3, so that it holds on every node. A command that changes it therefore
writes the object anew, by an atomic read-modify-write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from milena_cache.memory.lru import Entry
from milena_cache.objects.names import Object
from milena_cache.reads.read_modify_write import DELETE, KEEP, Decide, NewValue, Otherwise
from milena_cache.servers.resp.commands.data.reading import look
from milena_cache.servers.resp.commands.data.timestamps import as_ms, as_timestamp, expiry_in_ms
from milena_cache.servers.resp.dispatch.command import Command, CommandError, Handler
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context

# Redis's replies for a key that does not exist, and for one without an expiry.
_NO_KEY, _NO_EXPIRY = -2, -1


def _telling(make: Callable[[int, int], int]) -> Handler[Context]:
    """Return a handler that replies with `make(expiry, now)`, both in milliseconds since 1970."""

    def handler(context: Context, session: Session, argv: list[bytes]) -> Any:
        def convert(entry: Entry, _: int) -> int:
            if entry.value is None:
                return _NO_KEY
            return make(as_ms(entry.expires_at), as_ms(context.clock.wall())) if entry.expires_at else _NO_EXPIRY

        return look(context, session, argv[1], convert)

    return handler


def _in_seconds(milliseconds: int) -> int:
    return (milliseconds + 500) // 1000


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


def _expire_command(name: str, *, seconds: bool, absolute: bool) -> Handler[Context]:
    """Return the handler of EXPIRE, PEXPIRE, EXPIREAT or PEXPIREAT."""

    def handler(context: Context, session: Session, argv: list[bytes]) -> Any:
        del session
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

    return handler


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


def _reader(name: str, handler: Handler[Context], summary: str, since: str) -> Command[Context]:
    return Command(
        name,
        handler,
        2,
        "read",
        (1, 1, 1),
        "get",
        ("readonly", "fast"),
        ("keyspace",),
        summary=summary,
        since=since,
    )


def _writer(
    name: str, handler: Handler[Context], arity: Literal[2, -3], summary: str, since: str
) -> Command[Context]:
    return Command(
        name,
        handler,
        arity,
        "modify",
        (1, 1, 1),
        "put",
        ("write", "fast"),
        ("keyspace",),
        summary=summary,
        since=since,
    )


COMMANDS = (
    _reader(
        "ttl",
        _telling(lambda expires_at, now: _in_seconds(max(0, expires_at - now))),
        "Returns the expiration time in seconds of a key.",
        "1.0.0",
    ),
    _reader(
        "pttl",
        _telling(lambda expires_at, now: max(0, expires_at - now)),
        "Returns the expiration time in milliseconds of a key.",
        "2.6.0",
    ),
    _reader(
        "expiretime",
        _telling(lambda expires_at, _: _in_seconds(expires_at)),
        "Returns the expiration time of a key as a Unix timestamp.",
        "7.0.0",
    ),
    _reader(
        "pexpiretime",
        _telling(lambda expires_at, _: expires_at),
        "Returns the expiration time of a key as a Unix milliseconds timestamp.",
        "7.0.0",
    ),
    _writer(
        "expire",
        _expire_command("expire", seconds=True, absolute=False),
        -3,
        "Sets the expiration time of a key in seconds.",
        "1.0.0",
    ),
    _writer(
        "pexpire",
        _expire_command("pexpire", seconds=False, absolute=False),
        -3,
        "Sets the expiration time of a key in milliseconds.",
        "2.6.0",
    ),
    _writer(
        "expireat",
        _expire_command("expireat", seconds=True, absolute=True),
        -3,
        "Sets the expiration time of a key to a Unix timestamp.",
        "1.2.0",
    ),
    _writer(
        "pexpireat",
        _expire_command("pexpireat", seconds=False, absolute=True),
        -3,
        "Sets the expiration time of a key to a Unix milliseconds timestamp.",
        "2.6.0",
    ),
    _writer("persist", persist, 2, "Removes the expiration time of a key.", "2.2.0"),
)
