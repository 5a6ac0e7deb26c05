"""Pure. Expiries in the arguments of commands: in seconds or milliseconds, from now or since 1970.

All is computed in whole milliseconds since 1970, with Redis's limits and error texts. An expiry later than S3's
metadata can hold becomes the latest that it can.
"""

from __future__ import annotations

from milena_common.resp.redis_replies import CommandError, integer

_MAX = 2**63 - 1
# The latest expiry that an object's metadata can hold: 15 digits, which a float represents exactly too.
LATEST_MS = 10**15 - 1


def expiry_in_ms(word: bytes, command: str, now_ms: int, *, seconds: bool, absolute: bool, positive: bool) -> int:
    """Parse an expiry, and return it in milliseconds since 1970. Raises CommandError.

    seconds: `word` is in seconds, else in milliseconds
    absolute: it is a timestamp, else a duration from `now_ms`
    positive: only numbers above 0 are allowed, as with SET
    """
    number = integer(word)
    invalid = CommandError(f"ERR invalid expire time in '{command}' command")
    if positive and number <= 0:
        raise invalid
    if seconds:
        # C's integer division, by which Redis computes these bounds, rounds towards zero.
        if not -((2**63) // 1000) <= number <= _MAX // 1000:
            raise invalid
        number *= 1000
    if not absolute:
        if number > _MAX - now_ms:
            raise invalid
        number += now_ms
    return number


def as_timestamp(expires_ms: int) -> float:
    """Convert milliseconds to seconds since 1970, limited to what an object's metadata can hold."""
    return max(1, min(expires_ms, LATEST_MS)) / 1000


def as_ms(timestamp: float) -> int:
    """Convert seconds since 1970 to whole milliseconds."""
    return round(timestamp * 1000)
