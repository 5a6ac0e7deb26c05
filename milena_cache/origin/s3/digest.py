"""Pure. Whether a value is the one that its ETag names, as far as a store's ETags tell.

The ETag of an object that was uploaded in one piece is the value's MD5, but not with SSE-KMS or SSE-C, and not in
every store. So a difference is damage only in a bucket whose ETags have been seen to be MD5s, by the uploads or the
reads of this process. A bucket whose ETags differed for `ENOUGH` objects, and agreed for none, is left alone.
"""

from __future__ import annotations

import re
from collections import OrderedDict

_MD5 = re.compile(r'"([0-9a-f]{32})"')
# So many objects with ETags that are not their MD5, and none that is: this bucket has other ETags.
ENOUGH = 16
# Buckets, and ETags of single encrypted objects, that are remembered; the ones used longest ago are forgotten.
MAX_BUCKETS = 1024
MAX_OPAQUE = 10_000


def md5_named_by(etag: str) -> str:
    """Return the MD5, in hexadecimal, that the ETag may name; "" if its form says that it names none."""
    match = _MD5.fullmatch(etag)
    return match[1] if match else ""


class Md5Etags:
    """What is known of the ETags of each bucket. Empty values are no evidence: some stores give all of them one."""

    def __init__(self) -> None:
        self._agreed: OrderedDict[str, None] = OrderedDict()
        self._differed: OrderedDict[str, set[str]] = OrderedDict()
        self._opaque: OrderedDict[str, None] = OrderedDict()

    def trusted(self, bucket: str) -> bool:
        """Return True if ETags of this bucket have been seen to be MD5s."""
        return bucket in self._agreed

    def worth_a_look(self, bucket: str, etag: str) -> bool:
        """Return True if a value with this ETag is to be compared with it."""
        if not md5_named_by(etag) or etag in self._opaque:
            return False
        return bucket in self._agreed or len(self._differed.get(bucket, ())) < ENOUGH

    def agreed(self, bucket: str) -> None:
        """Take in that the ETag of a value in this bucket was its MD5."""
        self._differed.pop(bucket, None)
        _remember(self._agreed, bucket, MAX_BUCKETS)

    def differed(self, bucket: str, etag: str) -> None:
        """Take in that an ETag in this bucket was not the MD5 of the value that came with it."""
        if bucket in self._agreed:
            return
        self._differed.setdefault(bucket, set()).add(etag)
        if len(self._differed) > MAX_BUCKETS:
            self._differed.popitem(last=False)

    def is_opaque(self, etag: str) -> None:
        """Take in that the store says of an object with this ETag that it is encrypted: it names no MD5."""
        _remember(self._opaque, etag, MAX_OPAQUE)


def _remember(known: OrderedDict[str, None], name: str, max_names: int) -> None:
    known[name] = None
    known.move_to_end(name)
    if len(known) > max_names:
        known.popitem(last=False)
