"""Pure. Whose key is this, as the newest ring has it: from a key, or a request about one, to the way to its owner.

`by_slot` has a way for each slot, so that a lookup is the CRC of the key and one index. Slots that nobody owns, or
whose owner does not speak the Redis protocol, have the way `nowhere`; so have all slots while no ring is known.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from milena_common.api.keys import MAX_VALUE_BYTES, cache_key, canonical_bucket
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.resp.identity import Identity

W = TypeVar("W")

_LAST = SLOTS - 1
_SCHEME = b"s3://"


def _plain_slot(filed: bytes) -> int:
    """The slot of a cache key that has no {tag}."""
    return crc_hqx(filed, 0) & _LAST


class Routes(Generic[W]):
    """Ways to nodes, made by `make` from the address of a Redis door and the node that must be there.

    `bucket` is that of `find`'s keys.

    `only` is the one way that there is, if all slots have the same one.
    """

    __slots__ = (
        "_bucket",
        "_make",
        "_map",
        "_moved",
        "_nowhere",
        "_plain",
        "_prefix",
        "_ways",
        "by_slot",
        "max_value_bytes",
        "only",
    )

    def __init__(self, bucket: str, nowhere: W, make: Callable[[str, Identity], W]) -> None:
        self._bucket = bucket
        self._nowhere = nowhere
        self._make = make
        self._ways: dict[tuple[str, Identity], W] = {}  # by address and the node that must be there
        self._moved: dict[str, W] = {}  # to those that only a MOVED has named so far
        self._map = SlotMap.empty()
        self.max_value_bytes = MAX_VALUE_BYTES
        self.by_slot: list[W] = [nowhere] * SLOTS
        self.only: W | None = None
        self._prefix = b""
        self._plain = True
        self.update(self._map)

    def update(self, slot_map: SlotMap) -> list[W]:
        """Take over a ring; the ways to nodes that are not in it any more."""
        self._map = slot_map
        self.max_value_bytes = slot_map.max_value_bytes or self.max_value_bytes
        bucket = canonical_bucket(self._bucket, slot_map.default_bucket)
        self._prefix = cache_key(bucket, b"") if bucket else b""
        ways: dict[tuple[str, Identity], W] = {}
        for node in slot_map.nodes:
            if node.resp_address:
                door = (node.resp_address, self._identity(node.node_id))
                # A node that only a MOVED has named was asked for its cluster and bucket, which is enough.
                ways[door] = self._ways.get(door) or self._moved.pop(node.resp_address, None) or self._make(*door)
        gone = [way for door, way in self._ways.items() if door not in ways]
        gone += self._moved.values()
        self._moved = {}
        self._ways = ways
        by_slot = [self._nowhere] * SLOTS
        for first, last, node, _ in slot_map.ranges:
            way = ways.get((node.resp_address, self._identity(node.node_id)), self._nowhere)
            by_slot[first : last + 1] = [way] * (last + 1 - first)
        self.by_slot = by_slot
        self.only = by_slot[0] if all(way is by_slot[0] for way in by_slot) else None
        return gone

    def _identity(self, node_id: str) -> Identity:
        return Identity(self._map.cluster_id, self._map.default_bucket, node_id)

    def filed(self, key: str | bytes) -> bytes | None:
        """The cache key of `key`. None for what cannot be one."""
        if type(key) is str:
            try:
                key = key.encode()
            except UnicodeEncodeError:
                return None
        elif type(key) is not bytes:
            return None
        if self._prefix:
            return self._prefix + key
        return cache_key("", key) if key.startswith(_SCHEME) else key

    def filed_many(self, keys: Sequence[str | bytes]) -> list[bytes] | None:
        """The cache keys of `keys`. None if one of them cannot be one. A fifth of the time of `filed` for each."""
        kinds = set(map(type, keys))
        try:
            if kinds == {str}:
                filed = [key.encode() for key in keys]  # type: ignore[union-attr]
            elif kinds <= {str, bytes}:
                filed = [key if type(key) is bytes else key.encode() for key in keys]  # type: ignore[union-attr]
            else:
                return None
        except UnicodeEncodeError:
            return None
        if self._prefix:
            prefix = self._prefix
            return [prefix + key for key in filed]
        if _SCHEME in b"\n".join(filed):
            return [cache_key("", key) for key in filed]
        return filed

    def shares(self, filed: list[bytes], most: int) -> list[tuple[W, list[bytes], Sequence[int]]]:
        """Cache keys by their owners, at most so many at once: the way there, the keys, their places in `filed`."""
        only = self.only  # another thread may have `update` change it
        if only is not None and len(filed) <= most:
            return [(only, filed, range(len(filed)))]
        return [
            (way, [filed[place] for place in part], part)
            for way, places in self._by_owner(filed)
            for start in range(0, len(places), most)
            for part in (places[start : start + most],)
        ]

    def _by_owner(self, filed: list[bytes]) -> Iterable[tuple[W, Sequence[int]]]:
        only = self.only
        if only is not None:
            return [(only, range(len(filed)))]
        slot = slot_of if b"{" in b"\n".join(filed) else _plain_slot
        by_slot = self.by_slot
        shares: dict[W, list[int]] = {}
        for place, key in enumerate(filed):
            way = by_slot[slot(key)]
            if way in shares:
                shares[way].append(place)
            else:
                shares[way] = [place]
        return shares.items()

    def way(self, filed: bytes) -> W:
        """To the owner of a cache key."""
        only = self.only
        if only is not None:
            return only
        return self.by_slot[slot_of(filed) if b"{" in filed else _plain_slot(filed)]

    def of(self, request: Any) -> W:
        """To the owner of the key that `request`, a message with key and bucket, is about."""
        return self.way(cache_key(canonical_bucket(request.bucket, self._map.default_bucket), request.key))

    def moved(self, address: str) -> W:
        """To the node whose Redis door is at `address`, which need not be in the ring that is known."""
        for (known, _), way in self._ways.items():
            if known == address:
                return way
        return self._moved.get(address) or self._moved.setdefault(address, self._make(address, self._identity("")))

    def all(self) -> list[W]:
        """Every way that there is."""
        return [*self._ways.values(), *self._moved.values()]
