"""Coordination. Pages of a bucket, with what any node of the ring has written, and without what it has deleted.

S3's page shows the bucket as it was when S3 read it. The owner of each key has a record of the puts and deletes
that it has acknowledged, and that may be missing there:

1. Every other node is notified that a listing begins, and returns its dirty puts that the page may have, as many as
   a page has (`peer_listings`).
2. S3 is listed, and the page is merged with those, and with what this node has written and deleted (`listing`).
3. The owners of the page's keys return those that they have deleted: one request for each node.

The puts are taken before S3 is listed, since a put that is uploaded in between is in S3's page.

Step 3 alone would not be enough: (1) a delete of k is acknowledged, and is dirty at k's owner; (2) S3 lists k; (3)
the delete is uploaded, and its dirty entry removed; (4) the owner has no record of a delete, and k is shown. From
step 1 of the list on, the owner records its uploads.

Both requests are as small as the page, however many writes are dirty. If an owner cannot determine its deletes,
because a slot has moved or it has recorded too many uploads, the page is requested again.

A node that does not respond fails the page: without its reply, a key whose put it has acknowledged may be missing,
and one whose delete it has acknowledged may be shown. Nodes without a RESP server, and nodes of a release without
MILENA.LISTING, get no request; their deletes are listed, and their puts are not, until S3 has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from milena_cache.membership.ownership import Ownership
from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Page
from milena_cache.objects.unlisted import Names, Unlisted
from milena_common.api.errors import InvalidRequest, MilenaError, Unavailable
from milena_common.api.keys import cache_key
from milena_common.cluster.slots import slot_of
from milena_common.runtime.clock import Clock

# Pause before another attempt, seconds: longer than a ring takes to reach all nodes, usually.
PAUSE_SECONDS = 0.05

# Timeout of one request to another node, seconds.
REPLY_SECONDS = 2.0

T = TypeVar("T")

# Returns a page within a timeout in seconds, with what other nodes have written, as `Node.list` does.
ListPage = Callable[[float, Sequence[Unlisted]], Coroutine[Any, Any, Page]]
# The number of a listing at another node, and its puts.
Begun = tuple[int, Unlisted]


class Peers(Protocol):
    """The other nodes, by the addresses of their RESP servers."""

    async def begin_listing(self, address: str, seconds: float, bucket: str, names: Names, timeout: float) -> Begun:
        """Return the number there of a listing that ends within `seconds`, and its puts. Raises MilenaError."""

    async def end_listing(
        self, address: str, number: int, keys: Sequence[bytes], timeout: float
    ) -> Sequence[bytes] | None:
        """Return those of `keys` that the node has deleted; None if that is not known. Raises MilenaError."""


class ClusterListings:
    """The listings that one node makes for its callers."""

    def __init__(self, ownership: Ownership, peers: Peers, buckets: Buckets, clock: Clock) -> None:
        self._ownership = ownership
        self._peers = peers
        self._buckets = buckets
        self._clock = clock

    async def page(self, bucket: str, names: Names, list_page: ListPage, timeout: float) -> Page:
        """Return the page of `bucket` with `names` that `list_page` lists, within `timeout` seconds.

        Raises what `list_page` raises, and Unavailable if another node does not respond.
        """
        deadline = self._clock.now() + timeout
        name = self._buckets.canonical(bucket)
        while True:
            epoch = self._ownership.epoch
            begun = await self._begin(name, names, deadline)
            others = [each[1] for each in begun.values() if each is not None]
            numbers = {address: None if each is None else each[0] for address, each in begun.items()}
            page = await list_page(max(0.0, deadline - self._clock.now()), others)
            deleted = await self._deleted(name, page, numbers, epoch, deadline)
            if deleted is not None:
                if not deleted:
                    return page
                kept = [info for info in page.objects if cache_key(name, info.key.encode()) not in deleted]
                return replace(page, objects=kept)
            if self._clock.now() + PAUSE_SECONDS >= deadline:
                raise Unavailable("the owners of listed keys changed during each attempt to list them")
            await self._clock.sleep(PAUSE_SECONDS)

    async def _begin(self, bucket: str, names: Names, deadline: float) -> Mapping[str, Begun | None]:
        """Announce a listing to every other node; return its number and puts there, by address.

        None: the node is of an earlier release. Raises Unavailable.
        """
        nodes = self._ownership.slot_map.nodes
        addresses = [
            node.resp_address for node in nodes if node.resp_address and node.address != self._ownership.me
        ]
        if not addresses:
            return {}
        remaining = max(0.0, deadline - self._clock.now())
        timeout = min(remaining, REPLY_SECONDS)
        calls = (
            _or_error(self._peers.begin_listing(address, remaining, bucket, names, timeout))
            for address in addresses
        )
        begun: dict[str, Begun | None] = {}
        for address, result in zip(addresses, await asyncio.gather(*calls), strict=True):
            if isinstance(result, MilenaError) and not isinstance(result, InvalidRequest):
                raise Unavailable(f"what the node at {address} has written is not known: {result}")
            begun[address] = None if isinstance(result, MilenaError) else result
        return begun

    async def _deleted(
        self, bucket: str, page: Page, numbers: Mapping[str, int | None], epoch: int, deadline: float
    ) -> set[bytes] | None:
        """Return the cache keys of `page` that other nodes have deleted; None if that is not known.

        `numbers`: the listing's at the other nodes; `epoch`: of the ring at its beginning. Raises Unavailable.
        """
        ownership = self._ownership
        # Nodes without a key in the page get the request too, so that they end the listing.
        by_owner: dict[str, list[bytes]] = {
            address: [] for address, number in numbers.items() if number is not None
        }
        for info in page.objects:
            key = cache_key(bucket, info.key.encode())
            slot = slot_of(key)
            owner = ownership.slot_map.target(slot)
            if owner.address == ownership.me:
                if ownership.since[slot] > epoch:
                    # The slot came to this node during the listing. Its deletes before that are recorded at the
                    # previous owner, which got no request for these keys.
                    return None
            elif owner.resp_address:
                by_owner.setdefault(owner.resp_address, []).append(key)
        if not by_owner.keys() <= numbers.keys():
            return None  # a node joined after the listing had begun, and has not recorded its uploads since
        timeout = min(max(0.0, deadline - self._clock.now()), REPLY_SECONDS)
        calls = (self._end(address, numbers[address], keys, timeout) for address, keys in by_owner.items())
        deleted: set[bytes] = set()
        for part in await asyncio.gather(*calls):
            if part is None:
                return None
            deleted.update(part)
        return deleted

    async def _end(
        self, address: str, number: int | None, keys: Sequence[bytes], timeout: float
    ) -> Sequence[bytes] | None:
        if number is None:
            return ()
        result = await _or_error(self._peers.end_listing(address, number, keys, timeout))
        if not keys:
            return ()
        if isinstance(result, MilenaError):
            raise Unavailable(
                f"which of the listed keys the node at {address} has deleted is not known: {result}"
            ) from None
        return result


async def _or_error(call: Coroutine[Any, Any, T]) -> T | MilenaError:
    try:
        return await call
    except MilenaError as error:
        return error
