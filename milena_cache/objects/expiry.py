"""Pure. The expiry time of an object: its value, its form in S3's metadata, and its form in requests.

An expired object does not exist for any reader, on any node. The expiry time has a resolution of a millisecond. It
is stored as `milena-expires` in the object's metadata, and counts only in an object that was written where it is:
one that another tool copied, metadata included, does not expire with its original. An invalid value counts as none.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Final

from milena_cache.objects.object_store import Ref
from milena_cache.objects.version import LINEAGE, VERSION, WRITTEN_AS, written_here
from milena_common.api.errors import InvalidRequest

EXPIRES = "milena-expires"

# The one float object for all that never expires: millions of entries share it.
NEVER: Final = 0.0

# Ten years.
MAX_TTL_MS = 3650 * 24 * 3600 * 1000
# Digits of a timestamp, in milliseconds since 1970, that is still exact in a float.
_MAX_DIGITS = 15


def expires_metadata(expires_at: float) -> dict[str, str]:
    """Return the metadata of an object that expires at `expires_at` (seconds since 1970; `NEVER`: none)."""
    return {EXPIRES: str(round(expires_at * 1000))} if expires_at else {}


def without_milenas(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an object's metadata that was set by users."""
    return {name: text for name, text in metadata.items() if name not in (VERSION, LINEAGE, WRITTEN_AS, EXPIRES)}


def expiry_of(metadata: Mapping[str, str], ref: Ref) -> float:
    """Return when the object at `ref` expires, in seconds since 1970; `NEVER` if it does not."""
    text = metadata.get(EXPIRES, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS and written_here(metadata, ref)):
        return NEVER
    return int(text) / 1000 or NEVER


def is_expired(expires_at: float, wall: float) -> bool:
    """True if `expires_at` has passed at `wall`; both in seconds since 1970."""
    return bool(expires_at) and wall >= expires_at


def to_the_millisecond(expires_at: float) -> float:
    """Return the timestamp as it will be read back from S3."""
    return round(expires_at * 1000) / 1000 or NEVER


def expires_after(ttl_ms: int, wall: float) -> float:
    """Return the expiry time of an object with this TTL from `wall` on; 0: never. Raises InvalidRequest."""
    if ttl_ms > MAX_TTL_MS:
        raise InvalidRequest(f"ttl_ms: got {ttl_ms}; allowed: 0 (no end) to {MAX_TTL_MS} (ten years)")
    return to_the_millisecond(wall + ttl_ms / 1000) if ttl_ms else NEVER


def remaining_ms(expires_at: float, wall: float) -> int:
    """Return the milliseconds until the expiry, at least 1, of what has not expired; 0 if it never does."""
    return max(1, ceil((expires_at - wall) * 1000)) if expires_at else 0
