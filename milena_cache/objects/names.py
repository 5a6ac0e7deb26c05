"""Pure. Resolves the object that a request names: its cache key in memory, and its bucket and key in S3.

Every server resolves names here, so that one object has one cache key, and access to buckets is checked once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from milena_cache.objects.object_store import Ref
from milena_common.api.errors import AccessDenied, InvalidRequest
from milena_common.api.keys import (
    MAX_KEY_BYTES,
    SCHEME,
    cache_key,
    canonical_bucket,
    check_bucket,
    check_key,
    split_cache_key,
)

ANY_BUCKET = "*"


class Object(NamedTuple):
    """A request's object: its cache key, and its place in S3."""

    cache_key: bytes
    ref: Ref


@dataclass(frozen=True, slots=True)
class Buckets:
    """The buckets that a node serves: the default one, below a key prefix, and others by name (`*`: any).

    The prefix is prepended unchanged to every key of the default bucket; keys of other buckets have none.
    """

    default: str
    prefix: str = ""
    others: Collection[str] = ()

    def resolve(self, bucket: str, key: bytes) -> Object:
        """Return the object that a request names. Raises InvalidRequest or AccessDenied."""
        check_key(key)
        if not (bucket or self.prefix or key.startswith(SCHEME)):
            return Object(key, Ref(self.default, key.decode()))  # as below, for the most usual names
        name = self.canonical(bucket)
        if name:
            return Object(cache_key(name, key), Ref(name, key.decode()))
        self._check_prefixed(key)
        return Object(cache_key("", key), Ref(self.default, self.prefix + key.decode()))

    def check_default(self, key: bytes) -> None:
        """Raise InvalidRequest where `resolve` does, for a key of the default bucket without a bucket's name."""
        check_key(key)
        self._check_prefixed(key)

    def _check_prefixed(self, key: bytes) -> None:
        if self.prefix and len(key) + len(self.prefix.encode()) > MAX_KEY_BYTES:
            raise InvalidRequest(f"key: has {len(key)} bytes; with the node's S3_PREFIX it is over {MAX_KEY_BYTES}")

    def files_below(self, bucket: str, prefix: bytes) -> Callable[[bytes], bool]:
        """Return a predicate that is True for the cache keys of the bucket's keys that begin with `prefix`.

        Raises InvalidRequest or AccessDenied.
        """
        name = self.canonical(bucket)

        def matches(entry_key: bytes) -> bool:
            of, key = split_cache_key(entry_key)
            return of == name and key.startswith(prefix)

        return matches

    def object_at(self, entry_key: bytes) -> Object:
        """Return the object with this cache key, as `resolve` returned it, even if access is no longer allowed."""
        bucket, key = split_cache_key(entry_key)
        return Object(entry_key, Ref(bucket or self.default, self.prefix_of(bucket) + key.decode()))

    def cache_key_at(self, bucket: str, key: str) -> bytes | None:
        """Return the cache key of the object with this place in S3; None if no request can name it."""
        name = canonical_bucket(bucket, self.default)
        prefix = self.prefix_of(name)
        if not key.startswith(prefix):
            return None
        try:
            target = self.resolve(name, key.removeprefix(prefix).encode())
        except (InvalidRequest, AccessDenied, UnicodeEncodeError):
            return None
        return target.cache_key

    def canonical(self, bucket: str) -> str:
        """Return the name of an allowed bucket, "" for the default one. Raises InvalidRequest or AccessDenied."""
        name = canonical_bucket(bucket, self.default)
        if name:
            check_bucket(name)
            if name not in self.others and ANY_BUCKET not in self.others:
                raise AccessDenied(f"bucket: {name!r} is not served here; allow it with S3_BUCKETS on the nodes")
        return name

    def prefix_of(self, canonical: str) -> str:
        """Return the prefix of that bucket's keys in S3."""
        return "" if canonical else self.prefix
