"""Pure. When a key ends, as commands say it: in seconds or milliseconds, from now on or since 1970.

All is computed in whole milliseconds since 1970, with Redis's bounds and words for what is out of them. An end that
is later than any in S3's metadata can be told becomes the last one that can.
"""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.command import CommandError, integer

_MAX = 2**63 - 1
# What an object's metadata can tell: 15 digits, which are exact in a float too.
LATEST_MS = 10**15 - 1


def expiry_in_ms(word: bytes, command: str, now_ms: int, *, seconds: bool, absolute: bool, positive: bool) -> int:
    """The end that `word` says, in milliseconds since 1970. Raises Refused.

    `positive`: only numbers above 0 are allowed, as with SET.
    """
    number = integer(word)
    invalid = CommandError(f"ERR invalid expire time in '{command}' command")
    if positive and number <= 0:
        raise invalid
    if seconds:
        # C's division of the bounds, which is towards zero.
        if not -((2**63) // 1000) <= number <= _MAX // 1000:
            raise invalid
        number *= 1000
    if not absolute:
        if number > _MAX - now_ms:
            raise invalid
        number += now_ms
    return number


def as_timestamp(expires_ms: int) -> float:
    """The same in seconds since 1970, as the node wants it."""
    return max(1, min(expires_ms, LATEST_MS)) / 1000


def as_ms(timestamp: float) -> int:
    """Seconds since 1970 in whole milliseconds."""
    return round(timestamp * 1000)
