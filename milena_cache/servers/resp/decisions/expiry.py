"""Pure. The expiry of keys: TTL, EXPIRE, PERSIST and their relatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from milena_cache.servers.resp.decisions.timestamps import LATEST_MS, expiry_in_ms
from milena_cache.servers.resp.decisions.values import Decision, Values
from milena_common.resp.redis_replies import CommandError

# Redis's replies for a key that does not exist, and for one without an expiry.
NO_KEY, NO_EXPIRY = -2, -1


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

    def allow(self, current_ms: int, expires_ms: int) -> bool:
        """True if the expiry may change from `current_ms` to `expires_ms`, both in milliseconds since 1970.

        `current_ms` 0 is no expiry, which counts as later than any.
        """
        if (self.nx and current_ms) or (self.xx and not current_ms):
            return False
        if self.gt and (not current_ms or expires_ms <= current_ms):
            return False
        return not (self.lt and current_ms and expires_ms >= current_ms)


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


def expire_as(name: str, *, seconds: bool, absolute: bool) -> Decision:
    """Return the decision of the command `name`.

    `seconds`: the time is in seconds, not milliseconds; `absolute`: it counts from 1970, not from now.
    """

    def expire(values: Values, argv: list[bytes]) -> int:
        wished = conditions(argv[3:])
        expires_ms = expiry_in_ms(argv[2], name, values.now_ms, seconds=seconds, absolute=absolute, positive=False)
        expires_ms = max(1, min(expires_ms, LATEST_MS))
        if values.value_of(argv[1]) is None or not wished.allow(values.expires_ms(argv[1]), expires_ms):
            return 0
        values.expire(argv[1], expires_ms)
        return 1

    return expire


def persist(values: Values, argv: list[bytes]) -> int:
    if values.value_of(argv[1]) is None or not values.expires_ms(argv[1]):
        return 0
    values.expire(argv[1], 0)
    return 1


def reply_of_expiry(make: Callable[[int, int], int]) -> Decision:
    """Return a decision that replies with `make(expires_at, now)`, both in milliseconds since 1970."""

    def reply(values: Values, argv: list[bytes]) -> int:
        if values.value_of(argv[1]) is None:
            return NO_KEY
        expires_ms = values.expires_ms(argv[1])
        return make(expires_ms, values.now_ms) if expires_ms else NO_EXPIRY

    return reply
