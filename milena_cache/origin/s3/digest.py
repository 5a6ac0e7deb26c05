"""Pure. Verifies a value by its ETag, as far as a store's ETags are digests.

The ETag of an object that was uploaded in one piece is the value's MD5, but not with SSE-KMS or SSE-C, and not in
every store. So a difference is damage only in a bucket whose ETags have been observed to be MD5s, in uploads or
reads of this process. A bucket whose ETags differed for `ENOUGH` objects, and agreed for none, is not verified.
"""

from __future__ import annotations

import re
from collections import OrderedDict

_MD5 = re.compile(r'"([0-9a-f]{32})"')
# After so many objects whose ETag is not their MD5, and none whose is, the bucket is not verified.
ENOUGH = 16
# The number of buckets, and of ETags of single encrypted objects, that are kept; the least recently used are
# dropped.
MAX_BUCKETS = 1024
MAX_OPAQUE = 10_000


def md5_named_by(etag: str) -> str:
    """Return the MD5, in hexadecimal, that the ETag may be; "" if its form rules that out."""
    match = _MD5.fullmatch(etag)
    return match[1] if match else ""


class Md5Etags:
    """The evidence about the ETags of each bucket. Empty values do not count: some stores give all of them one
    ETag.
    """

    def __init__(self) -> None:
        self._agreed: OrderedDict[str, None] = OrderedDict()
        self._differed: OrderedDict[str, set[str]] = OrderedDict()
        self._opaque: OrderedDict[str, None] = OrderedDict()
        self._other_puts: OrderedDict[str, int] = OrderedDict()

    def trusted(self, bucket: str) -> bool:
        """True if ETags of this bucket have been observed to be MD5s."""
        return bucket in self._agreed

    def worth_a_look(self, bucket: str, etag: str) -> bool:
        """True if a value with this ETag should be compared with it."""
        if bucket not in self._agreed:
            differed = self._differed.get(bucket, ())
            if len(differed) >= ENOUGH or etag in differed:
                return False
        return bool(md5_named_by(etag)) and etag not in self._opaque

    def agreed(self, bucket: str) -> None:
        """Record that the ETag of a value in this bucket was its MD5."""
        self._differed.pop(bucket, None)
        _remember(self._agreed, bucket, MAX_BUCKETS)

    def differed(self, bucket: str, etag: str) -> None:
        """Record that an ETag in this bucket was not the MD5 of its value."""
        if bucket in self._agreed:
            return
        self._differed.setdefault(bucket, set()).add(etag)
        if len(self._differed) > MAX_BUCKETS:
            self._differed.popitem(last=False)

    def verifies_puts(self, bucket: str) -> bool:
        """True if the ETag that a put returned should be compared with the value's MD5."""
        return bucket in self._agreed and self._other_puts.get(bucket, 0) < ENOUGH

    def put_agreed(self, bucket: str) -> None:
        """Record that the ETag of a put was the value's MD5."""
        self._other_puts.pop(bucket, None)

    def put_differed(self, bucket: str) -> None:
        """Record that the ETag of a put was not the value's MD5, and the store's nevertheless.

        After `ENOUGH` in a row, puts are not verified: the bucket has begun to encrypt with a key.
        """
        self._other_puts[bucket] = self._other_puts.pop(bucket, 0) + 1
        if len(self._other_puts) > MAX_BUCKETS:
            self._other_puts.popitem(last=False)

    def is_opaque(self, etag: str) -> None:
        """Record that the store reports an object with this ETag as encrypted, so that it is no MD5."""
        _remember(self._opaque, etag, MAX_OPAQUE)


def _remember(known: OrderedDict[str, None], name: str, max_names: int) -> None:
    known[name] = None
    known.move_to_end(name)
    if len(known) > max_names:
        known.popitem(last=False)
