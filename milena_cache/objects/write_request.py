"""Pure. A put or delete as it was requested, and its acknowledgement.

Both are independent of protocols and of the journal, so that servers and the write path share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from milena_cache.objects.etags import same_etag
from milena_cache.objects.expiry import NEVER
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import NO_ATTRIBUTES, NO_METADATA
from milena_cache.objects.version import ABSENT, Base
from milena_common.api.durability import Durability
from milena_common.api.etags import etag_of

# The memory of one dirty entry beyond its key and value, in bytes; also counted for the journal, whose record has a
# header and an entry in its tree. Measured with `python -m bench --case replay`.
ENTRY_OVERHEAD = 650
# COPIES_POLICY: what becomes of a write that too few other nodes can have a copy of.
CopiesPolicy = Literal["through", "require"]
COPIES_POLICIES: tuple[CopiesPolicy, ...] = ("through", "require")
# From this size the ETag is computed at once, on a thread; below, at its first use.
LARGE_BYTES = 2**18


class Ack:
    """The acknowledgement of a write, with the durability class that was reached."""

    __slots__ = ("_etag", "_value", "durability")

    def __init__(self, durability: Durability, etag: str, value: bytes | None) -> None:
        """`etag` "" means that of `value`, computed at its first use."""
        self.durability = durability
        self._etag = etag
        self._value = value

    @property
    def etag(self) -> str:
        """Return the object's ETag, "" for a delete."""
        if not self._etag and self._value is not None:
            self._etag = etag_of(self._value)
        return self._etag


class NotDurable(Exception):
    """A write was not made durable, and nothing of it is left; it may be made in another class.

    reason: why, a key of `writes.writer.FORCED`
    """

    reason = ""


class Receipt(Protocol):
    """Learns, once, how a write has come out. A future is one."""

    def done(self) -> bool:
        """Return True if it has learned it, or no caller waits for it."""

    def set_result(self, result: None, /) -> None:
        """The write is durable. Must not raise, nor call back into the journal."""

    def set_exception(self, error: Exception, /) -> None:
        """The write has failed, or may not be acknowledged. Must not raise, nor call back into the journal."""


T = TypeVar("T")
# Called with the token of a write, and whether it is durable, once that is known. Returns why a durable write must
# not be acknowledged; None if it may be.
OnDone = Callable[[T, bool], str | None]


class Change(NamedTuple):
    """A put, or a delete (`value` None), as it was requested. `etag` is "" until it is computed.

    `expires_at`: when the object expires, in seconds since 1970. `keeps`: the ETag of the object whose value is
    `value`, if only its expiry time changes, so that its other properties in S3 are kept; "" for a new object.
    `metadata` and `attributes`: what S3 is to keep with it, as in `ObjectStore.put`; only of writes through to S3.
    """

    target: Object
    value: bytes | None
    etag: str = ""
    owned_since: int = 0
    if_match: str = ""
    if_none_match: str = ""
    expires_at: float = NEVER
    keeps: str = ""
    metadata: Mapping[str, str] = NO_METADATA
    attributes: Mapping[str, Any] = NO_ATTRIBUTES

    @property
    def conditional(self) -> bool:
        return bool(self.if_match or self.if_none_match)

    def is_met_by(self, current: Base) -> bool:
        """True if the condition holds for the current object."""
        if self.if_none_match:
            return current is ABSENT
        return isinstance(current, str) and same_etag(current, self.if_match)


def may_have_etag(value: bytes, etag: str, base: str) -> bool:
    """True if the ETag of `value` may be `base`. `etag` is it, if known; large values are not hashed."""
    if etag:
        return same_etag(etag, base)
    return len(value) >= LARGE_BYTES or etag_of(value) == base
