"""Pure. Routes a key, or a request about one, to its owner in the newest ring.

A *way* is the caller's object for the connections to one node. `by_slot` has the way of each slot, so that a
look-up is the CRC of the key and one index. Slots without an owner, or whose owner has no RESP server, have the way
`nowhere`; so have all slots while no ring is known. A node keeps its way from ring to ring, and so its connections.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from milena_common.api.keys import MAX_VALUE_BYTES, cache_key, canonical_bucket
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS, group_slot, slot_of
from milena_common.resp.identity import Identity

W = TypeVar("W")

_LAST_SLOT = SLOTS - 1
_SCHEME = b"s3://"


def _plain_slot(key: bytes) -> int:
    """Return the slot of a cache key that has no {tag}."""
    return crc_hqx(key, 0) & _LAST_SLOT


class Routes(Generic[W]):
    """Ways to nodes, made by `make` from a node's address for the Redis protocol and the identity it must have.

    - `bucket`: that of the keys of `to_cache_key`.
    - `encrypted`: True to use the nodes' addresses with TLS, and no others.
    - `by_slot`: the way to the owner of each slot.
    - `only`: the way that all slots have, if they have the same one; else None.
    - `max_value_bytes`: the largest value that the cluster takes.

    Not locked: a reader in another thread uses the ring before `update` or the one after it, or, between two of its
    look-ups, both. Either is harmless: a node that does not own a slot replies with a redirect.
    """

    __slots__ = (
        "_bucket",
        "_encrypted",
        "_make",
        "_map",
        "_nowhere",
        "_prefix",
        "_redirects",
        "_ways",
        "by_slot",
        "max_value_bytes",
        "only",
    )

    def __init__(
        self, bucket: str, nowhere: W, make: Callable[[str, Identity], W], *, encrypted: bool = False
    ) -> None:
        self._encrypted = encrypted
        self._bucket = bucket
        self._nowhere = nowhere
        self._make = make
        self._ways: dict[tuple[str, Identity], W] = {}  # by address and the node that must be there
        self._redirects: dict[str, W] = {}  # to nodes that only a MOVED has named so far, by address
        self._map = SlotMap.empty()
        self.max_value_bytes = MAX_VALUE_BYTES
        self.by_slot: list[W] = [nowhere] * SLOTS
        self.only: W | None = None
        self._prefix = b""
        self.update(self._map)

    def update(self, slot_map: SlotMap) -> list[W]:
        """Adopt `slot_map`; return the ways to nodes that are not in it any more."""
        self._map = slot_map
        self.max_value_bytes = slot_map.max_value_bytes or self.max_value_bytes
        bucket = canonical_bucket(self._bucket, slot_map.default_bucket)
        self._prefix = cache_key(bucket, b"") if bucket else b""
        ways: dict[tuple[str, Identity], W] = {}
        way_of: dict[str, W] = {}  # by the node's gRPC address
        for node in slot_map.nodes:
            address = node.resp_tls_address if self._encrypted else node.plain_resp_address
            if address:
                place = (address, self._identity(node.node_id))
                # The handshake of a node that only a MOVED has named has verified its cluster and bucket, which is
                # enough.
                ways[place] = self._ways.get(place) or self._redirects.pop(address, None) or self._make(*place)
                way_of[node.address] = ways[place]
        gone = [way for place, way in self._ways.items() if place not in ways]
        gone += self._redirects.values()
        self._redirects = {}
        self._ways = ways
        by_slot = [self._nowhere] * SLOTS
        for first, last, node, _ in slot_map.ranges:
            by_slot[first : last + 1] = [way_of.get(node.address, self._nowhere)] * (last + 1 - first)
        self.by_slot = by_slot
        self.only = by_slot[0] if all(way is by_slot[0] for way in by_slot) else None
        return gone

    def _identity(self, node_id: str) -> Identity:
        return Identity(self._map.cluster_id, self._map.default_bucket, node_id)

    def to_cache_key(self, key: str | bytes) -> bytes | None:
        """Return the cache key of `key`; None for what cannot be a key."""
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

    def to_cache_keys(self, keys: Sequence[str | bytes]) -> list[bytes] | None:
        """Return the cache keys of `keys`; None if one of them cannot be a key.

        It takes a fifth of the time of a `to_cache_key` for each.
        """
        kinds = set(map(type, keys))
        try:
            if kinds == {str}:
                cache_keys = [key.encode() for key in keys]  # type: ignore[union-attr]
            elif kinds <= {str, bytes}:
                cache_keys = [key if type(key) is bytes else key.encode() for key in keys]  # type: ignore[union-attr]
            else:
                return None
        except UnicodeEncodeError:
            return None
        if self._prefix:
            prefix = self._prefix
            return [prefix + key for key in cache_keys]
        if _SCHEME in b"\n".join(cache_keys):
            return [cache_key("", key) for key in cache_keys]
        return cache_keys

    def by_owner(self, keys: list[bytes], max_keys: int) -> list[tuple[W, list[bytes], Sequence[int]]]:
        """Return cache keys by owner, in parts of at most `max_keys`: the way, the keys, their places in `keys`."""
        only = self.only  # read once: `update` in another thread may set it
        if only is not None and len(keys) <= max_keys:
            return [(only, keys, range(len(keys)))]
        return [
            (way, [keys[place] for place in part], part)
            for way, places in self._places_by_owner(keys)
            for start in range(0, len(places), max_keys)
            for part in (places[start : start + max_keys],)
        ]

    def _places_by_owner(self, keys: list[bytes]) -> Iterable[tuple[W, Sequence[int]]]:
        only = self.only
        if only is not None:
            return [(only, range(len(keys)))]
        slot = slot_of if b"{" in b"\n".join(keys) else _plain_slot
        by_slot = self.by_slot
        shares: dict[W, list[int]] = {}
        for place, key in enumerate(keys):
            way = by_slot[slot(key)]
            if way in shares:
                shares[way].append(place)
            else:
                shares[way] = [place]
        return shares.items()

    def owner_of(self, key: bytes) -> W:
        """Return the way to the owner of a cache key."""
        only = self.only
        if only is not None:
            return only
        return self.by_slot[slot_of(key) if b"{" in key else _plain_slot(key)]

    def owner_of_request(self, request: Any) -> W:
        """Return the way to the owner of what `request`, a message with key and bucket, is about.

        That is the key; of a read of blocks it is their group.
        """
        key = self.key_of_request(request)
        if isinstance(request, pb.GetRequest) and request.blocks.group_bytes:
            group = request.offset // request.blocks.group_bytes
            return self.by_slot[group_slot(key, request.if_match, group)]
        return self.owner_of(key)

    def key_of_request(self, request: Any) -> bytes:
        """Return the cache key of the key that `request`, a message with key and bucket, is about."""
        return cache_key(canonical_bucket(request.bucket, self._map.default_bucket), request.key)

    def redirect(self, address: str) -> W:
        """Return the way to the node whose Redis protocol is at `address`, which need not be in the known ring."""
        for (known, _), way in self._ways.items():
            if known == address:
                return way
        return self._redirects.get(address) or self._redirects.setdefault(
            address, self._make(address, self._identity(""))
        )

    def all_ways(self) -> list[W]:
        """Return every way that there is."""
        return [*self._ways.values(), *self._redirects.values()]
