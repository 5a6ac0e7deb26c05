"""Pure. An object's own end: when it is, how an object in S3 tells it, and how requests name it.

Past its end an object does not exist for anybody, on any node. The end is kept to the millisecond, as
`milena-expires` in the object's metadata, and counts only in an object that was written where it is: one that
somebody copied, metadata included, does not end with its original. A value that is no number of milliseconds is no
end either.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Final

from milena_cache.objects.object_store import Ref
from milena_cache.objects.version import VERSION, WRITTEN_AS, written_here
from milena_common.api.errors import InvalidRequest

EXPIRES = "milena-expires"

# The one number object for all that does not end: millions of entries share it.
NEVER: Final = 0.0

# Ten years.
MAX_TTL_MS = 3650 * 24 * 3600 * 1000
# Digits of a moment, in milliseconds since 1970, that is still exact in a float.
_MAX_DIGITS = 15


def expires_metadata(expires_at: float) -> dict[str, str]:
    """What an object has in its metadata that ends at `expires_at` (seconds since 1970; `NEVER`: nothing)."""
    return {EXPIRES: str(round(expires_at * 1000))} if expires_at else {}


def without_milenas(metadata: Mapping[str, str]) -> dict[str, str]:
    """What of an object's metadata its users have put there."""
    return {name: text for name, text in metadata.items() if name not in (VERSION, WRITTEN_AS, EXPIRES)}


def expiry_of(metadata: Mapping[str, str], ref: Ref) -> float:
    """When the object at `ref` ends, in seconds since 1970; `NEVER` if it does not."""
    text = metadata.get(EXPIRES, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS and written_here(metadata, ref)):
        return NEVER
    return int(text) / 1000 or NEVER


def is_expired(expires_at: float, wall: float) -> bool:
    """Whether what ends at `expires_at` is no more at `wall`; both in seconds since 1970."""
    return bool(expires_at) and wall >= expires_at


def to_the_millisecond(expires_at: float) -> float:
    """The same moment as it will be read back from S3."""
    return round(expires_at * 1000) / 1000 or NEVER


def expires_after(ttl_ms: int, wall: float) -> float:
    """The end of an object that is to exist for so long from `wall` on; 0 means for ever. Raises InvalidRequest."""
    if ttl_ms > MAX_TTL_MS:
        raise InvalidRequest(f"ttl_ms: got {ttl_ms}; allowed: 0 (no end) to {MAX_TTL_MS} (ten years)")
    return to_the_millisecond(wall + ttl_ms / 1000) if ttl_ms else NEVER


def remaining_ms(expires_at: float, wall: float) -> int:
    """Milliseconds until the end, at least 1, of what has not ended; 0 if it never ends."""
    return max(1, ceil((expires_at - wall) * 1000)) if expires_at else 0
