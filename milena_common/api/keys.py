"""Pure. What a key and a bucket may be, and the bytes by which an object is filed.

An object is named by (bucket, key). The *cache key* is one byte string for both, so that a slot can be
computed from it and a Redis client can spell it: the bare key for the default bucket, ``s3://bucket/key``
for another. A key of the default bucket that itself begins with ``s3://`` is filed as
``s3://default/<key>``; without that, key ``s3://b/k`` of the default bucket and key ``k`` of bucket ``b``
would share one entry, and one would be served for the other. ("default" names the default bucket in every
request, so no other bucket can have that name here.)

Rules: S3's object key rules (UTF-8, at most 1024 bytes) and general-purpose bucket naming rules.
"""

from __future__ import annotations

import re

from milena_common.api.errors import InvalidRequest

MAX_KEY_BYTES = 1024
# The largest MAX_VALUE_BYTES that a server may be given: a larger value is rejected by every one.
MAX_VALUE_BYTES = 2**30
DEFAULT_BUCKET = "default"

SCHEME = b"s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IP = re.compile(r"\d+\.\d+\.\d+\.\d+")


def check_key(key: bytes) -> None:
    """Raise InvalidRequest, naming the rule, unless S3 accepts `key` as an object key."""
    if not key:
        raise InvalidRequest("key: is empty; allowed are 1 to 1024 bytes of UTF-8")
    if len(key) > MAX_KEY_BYTES:
        raise InvalidRequest(f"key: has {len(key)} bytes; allowed are 1 to {MAX_KEY_BYTES} bytes of UTF-8")
    if 0 in key:
        raise InvalidRequest(f"key: has a NUL at byte {key.index(0)}; NUL is not allowed")
    if not key.isascii():
        try:
            key.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"key: is not UTF-8 at byte {error.start}; keys are UTF-8") from None


def check_bucket(bucket: str) -> None:
    """Raise InvalidRequest, naming the rule, unless `bucket` is a name that S3 allows."""
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _IP.fullmatch(bucket):
        raise InvalidRequest(
            f"bucket: {bucket[:80]!r} is not a bucket name; allowed are 3 to 63 of a-z 0-9 . - that begin and end "
            "with a letter or digit, without '..', and not an IP address"
        )


def canonical_bucket(bucket: str, default_bucket: str) -> str:
    """ "" for every spelling of the default bucket, the name itself for another.

    `default_bucket` is the S3 name behind it, "" where it is not known.
    """
    return "" if bucket in ("", DEFAULT_BUCKET, default_bucket) else bucket


def cache_key(bucket: str, key: bytes) -> bytes:
    """The bytes that file `key` of `bucket` (canonical: "" is the default one)."""
    if bucket:
        return b"%s%s/%s" % (SCHEME, bucket.encode(), key)
    if key.startswith(SCHEME):
        return b"%s%s/%s" % (SCHEME, DEFAULT_BUCKET.encode(), key)
    return key


def split_cache_key(cache_key: bytes) -> tuple[str, bytes]:
    """The bucket (canonical) and the key that `cache_key` files."""
    if not cache_key.startswith(SCHEME):
        return "", cache_key
    bucket, _, key = cache_key.removeprefix(SCHEME).partition(b"/")
    return canonical_bucket(bucket.decode(), ""), key


def check_value_size(size: int, limit: int) -> None:
    """Raise InvalidRequest, with both sizes, if a value of `size` bytes is over `limit`."""
    if size > limit:
        raise InvalidRequest(f"value: has {size} bytes; allowed are at most {limit} (MAX_VALUE_BYTES)")
