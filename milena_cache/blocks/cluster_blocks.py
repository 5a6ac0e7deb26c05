"""Coordination. Reads of ranges of a large object, by the nodes whose slots its groups of blocks are in.

The owner of the key reads each group from the node that keeps it, over MILENA.BLOCK, and what that cannot return
from S3 itself. The reply of another node needs no confirmation: a block's name has the ETag, so that a node with
an older ring, or one that has lost its lease, returns the same bytes as any other.

At most MAX_PIECES groups of one read are requested at a time, and each waits for room for its reply in the
process's bytes in flight, as a fetch from S3 does: many readers of large parts are slowed down, and not buffered. A
request waits for room before it is sent, and holds nothing while it waits, so that readers do not wait for each
other's bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from milena_cache.blocks.block_reads import BlockReads, Piece, Replaced
from milena_cache.blocks.layout import Version, groups_of
from milena_cache.membership.ownership import Ownership
from milena_cache.origin.s3.fetch_bytes import fetch_bytes
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import ConditionFailed, InternalError, MilenaError
from milena_common.cluster.slot_map import Target
from milena_common.cluster.slots import group_slot
from milena_common.limits.byte_budget import ByteBudget
from milena_common.resp.encoding import command
from milena_common.runtime.clock import Clock

# Groups of one read that are requested at a time.
MAX_PIECES = 4
# Requests to read ahead that other nodes have not replied to, at most; and the seconds that they may take to.
MAX_AHEAD = 64
AHEAD_SECONDS = 1.0
# The share of a read's timeout that another node may take: with the rest the group is read from S3.
PEER_SHARE = 1 / 2


class Links(Protocol):
    """Connections to other nodes."""

    async def request(self, address: str, sent: bytes, timeout: float) -> Any:
        """Return the reply of the node whose RESP server is at `address`. Raises MilenaError."""


class ClusterBlocks:
    """The blocks of all nodes of the ring, as one node reads them.

    from_peers: groups that other nodes have returned
    peer_failures: groups that were read from S3 because the other node did not return them
    """

    def __init__(
        self, local: BlockReads, ownership: Ownership, links: Links, budget: ByteBudget, clock: Clock
    ) -> None:
        self.from_peers = self.peer_failures = 0
        self._local = local
        self._ownership = ownership
        self._links = links
        self._budget = budget
        self._clock = clock
        self._ahead: set[asyncio.Task[None]] = set()

    def find_range(self, version: Version, part: ByteRange) -> bytes | None:
        """Return the bytes of `part` if this node's memory has all of them, else None. Never awaits."""
        return self._local.find_range(version, part)

    async def read_range(self, version: Version, part: ByteRange, timeout: float) -> Piece:
        """Return the bytes of `part`, within `timeout` seconds. Raises as `BlockReads.read_range` does."""
        deadline = self._clock.now() + timeout
        groups = list(groups_of(part, self._local.block_bytes))
        if len(groups) == 1:
            return await self._piece(version, *groups[0], deadline)
        places = asyncio.Semaphore(MAX_PIECES)

        async def piece(group: int, part: ByteRange) -> Piece:
            async with places:
                return await self._piece(version, group, part, deadline)

        pieces = await _all([asyncio.ensure_future(piece(*each)) for each in groups])
        return Piece(
            b"".join([value for value, _, _ in pieces]),
            sum(fetched for _, fetched, _ in pieces),
            any(waited for _, _, waited in pieces),
        )

    def keeps(self, version: Version, part: ByteRange) -> bool:
        """True if the groups that `part` touches are this node's, by its ring."""
        groups = groups_of(part, self._local.block_bytes)
        return all(self._owner(version, group).address == self._ownership.me for group, _ in groups)

    def read_ahead(self, version: Version, part: ByteRange) -> None:
        """Have the nodes that keep the blocks of `part` begin to read those that they do not have."""
        for group, piece in groups_of(part, self._local.block_bytes):
            address = self._peer(version, group)
            if not address:
                self._local.read_ahead(version, piece)
            elif len(self._ahead) < MAX_AHEAD:
                task = asyncio.get_running_loop().create_task(self._request_ahead(address, version, piece))
                self._ahead.add(task)
                task.add_done_callback(self._ahead.discard)

    async def _request_ahead(self, address: str, version: Version, part: ByteRange) -> None:
        with suppress(MilenaError):
            await self._links.request(address, _block(version, part, AHEAD_SECONDS, b"AHEAD"), AHEAD_SECONDS)

    def _peer(self, version: Version, group: int) -> str:
        """Return the RESP address of the node that keeps a group; "" if it is this node, or has none."""
        owner = self._owner(version, group)
        return owner.resp_address if owner.address != self._ownership.me else ""

    def _owner(self, version: Version, group: int) -> Target:
        slot = group_slot(version.target.cache_key, version.etag, group)
        return self._ownership.slot_map.target(slot)

    async def _piece(self, version: Version, group: int, part: ByteRange, deadline: float) -> Piece:
        remaining = max(0.0, deadline - self._clock.now())
        if address := self._peer(version, group):
            piece = await self._from_peer(address, version, part, remaining * PEER_SHARE)
            if piece is not None:
                self.from_peers += 1
                return piece
            self.peer_failures += 1
            remaining = max(0.0, deadline - self._clock.now())
        return await self._local.read_range(version, part, remaining)

    async def cancel_all(self) -> None:
        """Cancel the requests to read ahead, at the end of the process."""
        tasks = list(self._ahead)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _from_peer(self, address: str, version: Version, part: ByteRange, timeout: float) -> Piece | None:
        """Return the bytes from the node at `address`; None if it does not return them. Raises Replaced."""
        sent = _block(version, part, timeout)
        deadline = self._clock.now() + timeout
        try:
            async with fetch_bytes(self._budget, part.length, timeout):
                reply = await self._links.request(address, sent, max(0.0, deadline - self._clock.now()))
                match reply:
                    case [bytes(value), int(fetched), int(waited)] if len(value) == part.length:
                        return Piece(value, fetched, bool(waited))
                # Not after the block: the fetch from S3 that follows would wait while its reader holds these bytes.
                raise InternalError(f"node {address} replied to MILENA.BLOCK with something else")
        except ConditionFailed:
            raise Replaced from None
        except MilenaError:
            return None


def _block(version: Version, part: ByteRange, timeout: float, *more: bytes) -> bytes:
    """Return a MILENA.BLOCK."""
    target, etag, size = version
    numbers = [b"%d" % number for number in (size, *part, max(1, int(timeout * 1000)))]
    return command(b"MILENA.BLOCK", target.cache_key, etag.encode(), *numbers, *more)


async def _all(tasks: Sequence[asyncio.Task[Piece]]) -> list[Piece]:
    """Return the results of all `tasks`; if one fails, the others are cancelled, and its error is raised."""
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
