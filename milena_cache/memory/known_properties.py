"""Pure. What S3 keeps with objects besides their values, as HEADs have found it.

It belongs to an ETag: a reader that has another version of the object does not use it. It is dropped when
`existence` drops a result, so that a write of the same bytes with other metadata is seen.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from milena_common.api.properties import Properties

# Objects, and bytes of their texts; the least recently used are dropped. At most some 16 MB in all.
MAX_KNOWN: Final = 10_000
MAX_BYTES: Final = 8 * 2**20


class KnownProperties(NamedTuple):
    """The properties of one version.

    etag: of the version
    properties: of the object
    checked_at: when the HEAD was sent, monotonic seconds
    owned_since: the ring epoch since which this node owned the key's slot at that time
    """

    etag: str
    properties: Properties
    checked_at: float
    owned_since: int


class PropertyTable:
    """The properties that are known, by cache key."""

    def __init__(self) -> None:
        self.bytes = 0
        self._known: OrderedDict[bytes, KnownProperties] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: bytes) -> KnownProperties | None:
        """Return what is known of an object, however old."""
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def remember(self, key: bytes, known: KnownProperties) -> None:
        """Keep what was found, and drop what no longer fits."""
        self.clear_properties(key)
        self._known[key] = known
        self.bytes += _cost(known)
        while len(self._known) > MAX_KNOWN or self.bytes > MAX_BYTES:
            self.clear_properties(next(iter(self._known)))

    def clear_properties(self, key: bytes) -> None:
        """Drop what is known of an object."""
        known = self._known.pop(key, None)
        if known is not None:
            self.bytes -= _cost(known)


def _cost(known: KnownProperties) -> int:
    texts = (*known.properties.headers.items(), *known.properties.metadata.items())
    return sum(len(name) + len(value) for name, value in texts)
