"""Pure. A cached object, as the memory keeps it, and the bytes that it takes."""

from __future__ import annotations

import re
from math import inf

from milena_cache.objects.expiry import NEVER

# Bytes that an entry takes beyond its key and value: objects, and places in dictionary and queue. 250 to 272,
# depending on how full the dictionary is; measured with `python -m bench --case memory`.
ENTRY_OVERHEAD = 275

# Bytes that an entry with an expiry takes beyond that.
EXPIRY_OVERHEAD = 48

# Uses that are counted: more would tell an eviction nothing (S3-FIFO counts as many).
MAX_USES = 3

_MD5_ETAG = re.compile(r'"[0-9a-f]{32}"')


class Entry:
    """A cached object, or its absence.

    value: bytes; None if the object does not exist
    etag: as S3 spells it, quotes included. 32 hexadecimal digits are stored as a number, which saves 48 bytes
    stamp: `checked_at` and `owned_since` below; entries that are stored together share it
    checked_at: when S3 last confirmed it, monotonic seconds; of a read, when its request was sent
    owned_since: the ring epoch since which this node owned the key's slot at that time
    uses: how often it was used since the eviction order last looked at it, MAX_USES at most; set by `Memory.store`
    expires_at: seconds since 1970; NEVER (0) if the object does not expire
    indeterminate: True if a write of unknown outcome may have changed its expiry in S3, with the same bytes

    Only `ExpiringEntry` has slots for the last two: in all entries they would cost 16 bytes each. They are
    properties, since a default in the class's body has a place in each instance once it is compiled.
    """

    __slots__ = ("_etag", "stamp", "uses", "value")

    uses: int

    def __init__(self, value: bytes | None, etag: str, checked_at: float, owned_since: int) -> None:
        self.value = value
        self._etag: int | str = int(etag[1:-1], 16) if _MD5_ETAG.fullmatch(etag) else etag
        self.stamp = (checked_at, owned_since)

    @property
    def checked_at(self) -> float:
        return self.stamp[0]

    @property
    def owned_since(self) -> int:
        return self.stamp[1]

    @property
    def expires_at(self) -> float:
        return NEVER

    @property
    def indeterminate(self) -> bool:
        return False

    @property
    def etag(self) -> str:
        packed = self._etag
        return packed if isinstance(packed, str) else f'"{packed:032x}"'

    @property
    def size(self) -> int:
        """Return the length of the value in bytes; 0 if the object does not exist."""
        return len(self.value) if self.value is not None else 0


class ExpiringEntry(Entry):
    """An entry of an object that expires, or may expire."""

    __slots__ = ("_expires_at", "_indeterminate")

    def __init__(
        self,
        value: bytes | None,
        etag: str,
        checked_at: float,
        owned_since: int,
        expires_at: float,
        *,
        indeterminate: bool,
    ) -> None:
        super().__init__(value, etag, checked_at, owned_since)
        self._expires_at = expires_at
        self._indeterminate = indeterminate

    @property
    def expires_at(self) -> float:
        return self._expires_at

    @property
    def indeterminate(self) -> bool:
        return self._indeterminate


class SampledEntry(Entry):
    """An entry whose key is in the sample by which the memory's size is judged, see `memory.read_samples`.

    So a hit of another entry pays nothing for the question whether it is: the fast path looks at the type anyway.
    """

    __slots__ = ()


def as_sampled(entry: Entry) -> SampledEntry:
    """Return an entry of the same object that is known to be in the sample."""
    sampled = SampledEntry(entry.value, "", 0.0, 0)
    sampled._etag, sampled.stamp = entry._etag, entry.stamp
    return sampled


def as_plain(entry: Entry) -> Entry:
    """Return the same entry, its uses included, as one that is not in the sample."""
    plain = Entry(entry.value, "", 0.0, 0)
    plain._etag, plain.stamp, plain.uses = entry._etag, entry.stamp, entry.uses
    return plain


class SizedEntry(Entry):
    """A stand-in for the entry of an object of `size` bytes, whose value is not kept: a simulation needs none.

    size: None if the object does not exist
    """

    __slots__ = ("_size",)

    def __init__(self, size: int | None, checked_at: float) -> None:
        self.value = None if size is None else b""
        self._etag = ""
        self.stamp = (checked_at, 0)
        self._size = size or 0

    @property
    def size(self) -> int:
        return self._size


def entry_of(value: bytes | None, etag: str, checked_at: float, owned_since: int, expires_at: float) -> Entry:
    """Return an entry for an object that expires at `expires_at` (seconds since 1970), NEVER (0) included."""
    if not expires_at:
        return Entry(value, etag, checked_at, owned_since)
    return ExpiringEntry(value, etag, checked_at, owned_since, expires_at, indeterminate=False)


# In place of the entry of a key that was removed. No reader may serve it: it is older than any.
GONE = Entry(None, "", -inf, -1)


def cost_of(key: bytes, entry: Entry) -> int:
    """Return the bytes that `entry` takes, its key and the overhead included."""
    return len(key) + entry.size + ENTRY_OVERHEAD + (EXPIRY_OVERHEAD if entry.expires_at else 0)


def differ(one: Entry, other: Entry) -> bool:
    """True if a reader of `one` gets a different reply than a reader of `other`."""
    if one.expires_at != other.expires_at or one._etag != other._etag:
        return True
    # Without ETags only the values themselves can be compared.
    return (one.value is None) != (other.value is None) or (not one._etag and one.value != other.value)
