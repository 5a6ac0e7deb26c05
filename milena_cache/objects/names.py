"""Pure. Which object a request names: how it is filed in memory, and where it is in S3."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from milena_cache.objects.object_store import Ref
from milena_common.api.errors import AccessDenied, InvalidRequest
from milena_common.api.keys import (
    MAX_KEY_BYTES,
    cache_key,
    canonical_bucket,
    check_bucket,
    check_key,
    split_cache_key,
)

ANY_BUCKET = "*"


class Object(NamedTuple):
    """A request's object."""

    cache_key: bytes
    ref: Ref


@dataclass(frozen=True, slots=True)
class Buckets:
    """What a node serves: the default bucket, below a key prefix, and others by name (`*`: any).

    The prefix is put before every key of the default bucket as it stands; keys of other buckets have none.
    """

    default: str
    prefix: str = ""
    others: Collection[str] = ()

    def resolve(self, bucket: str, key: bytes) -> Object:
        """The object that a request names. Raises InvalidRequest or AccessDenied."""
        check_key(key)
        name = self.canonical(bucket)
        if name:
            return Object(cache_key(name, key), Ref(name, key.decode()))
        if self.prefix and len(key) + len(self.prefix.encode()) > MAX_KEY_BYTES:
            raise InvalidRequest(f"key: has {len(key)} bytes; with the node's S3_PREFIX it is over {MAX_KEY_BYTES}")
        return Object(cache_key("", key), Ref(self.default, self.prefix + key.decode()))

    def files_below(self, bucket: str, prefix: bytes) -> Callable[[bytes], bool]:
        """What is True of the cache keys of that bucket whose key begins with `prefix`.

        Raises InvalidRequest or AccessDenied.
        """
        name = self.canonical(bucket)

        def matches(entry_key: bytes) -> bool:
            of, key = split_cache_key(entry_key)
            return of == name and key.startswith(prefix)

        return matches

    def object_at(self, entry_key: bytes) -> Object:
        """The object that is filed so: what `resolve` gave when it was, whatever is allowed now."""
        bucket, key = split_cache_key(entry_key)
        return Object(entry_key, Ref(bucket or self.default, self.prefix_of(bucket) + key.decode()))

    def canonical(self, bucket: str) -> str:
        """The name of an allowed bucket, "" for the default one. Raises InvalidRequest or AccessDenied."""
        name = canonical_bucket(bucket, self.default)
        if name:
            check_bucket(name)
            if name not in self.others and ANY_BUCKET not in self.others:
                raise AccessDenied(f"bucket: {name!r} is not served here; allow it with S3_BUCKETS on the nodes")
        return name

    def prefix_of(self, canonical: str) -> str:
        """What is put before the keys of that bucket."""
        return "" if canonical else self.prefix
