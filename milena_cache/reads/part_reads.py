"""Coordination. Reads of parts of objects: a slice of what memory has, or blocks of a large object.

A part of an object of up to `Node.max_whole_bytes` is cut from the whole one, which is read as any other read does
and kept. Of a larger one, size and ETag are kept as after a HEAD, and the blocks that a part touches are read and
kept on the nodes that have their groups (`milena_cache.blocks`), unless the whole object is in memory because
something has read that. A store that gives no ETags has its ranges read, and nothing of them is kept.

A range is resolved by the size of the object and requested with the ETag that came with that size. Otherwise: (1) a
HEAD finds 100 bytes, and the last 10 are requested; (2) the object is replaced by one of 200 bytes; (3) the bytes
from 90 to 99 of that one are returned as its end. If S3 has another object by then, its size is looked up anew.

Reads that start after an acknowledged write see it: a dirty entry comes first, a write drops the remembered size,
and a part that was in flight is neither kept nor shared.

A client that has opened one version of an object reads the blocks of it from the nodes that keep them
(`read_blocks`), as from a file that is open: that version remains readable as long as its bytes are there, also if
a write has been acknowledged since. The node that owns the key, and knows of the write, says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from milena_cache.blocks.block_reads import BlockReads, Piece, Replaced
from milena_cache.blocks.cluster_blocks import ClusterBlocks
from milena_cache.blocks.layout import GROUP_BLOCKS, Version
from milena_cache.blocks.sequential_reads import SequentialReads
from milena_cache.memory.existence import Existence, Known
from milena_cache.objects.entry import Entry, entry_of
from milena_cache.objects.etags import same_etag
from milena_cache.objects.expiry import NEVER, expiry_of, is_expired
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import Absent, Readable, Ref, TooLarge, part_too_large
from milena_cache.objects.read_outcomes import HITS
from milena_cache.origin.requests import within
from milena_cache.reads.reader import FENCED, Node, Reply
from milena_common.api.ahead import MAX_BLOCKS
from milena_common.api.byte_range import MAX_PART_BYTES, ByteRange
from milena_common.api.errors import ConditionFailed, MilenaError, OriginUnavailable, RangeNotSatisfiable

# How often an object may change under one read of a part of it.
MAX_CHANGES = 3

# Returns the bytes to read of an object of a size: offset from the beginning, and exact length. Raises
# RangeNotSatisfiable.
RangeOf = Callable[[int], ByteRange]


class Part(NamedTuple):
    """A part of an object.

    reply: of the read; its entry's value is b"" for an object in S3 of which only a part was read
    value: the bytes; b"" if the object does not exist
    size: bytes in the whole object; 0 if it does not exist
    """

    reply: Reply
    value: bytes
    size: int


class PartReads:
    """The reads of parts of one node, each counted once in its `reads`.

    blocks: those of this node, or of the nodes of its ring
    direct: reads of blocks that clients have requested of this node as the one that keeps them
    max_value_bytes: MAX_VALUE_BYTES
    """

    def __init__(
        self,
        node: Node,
        store: Readable,
        existence: Existence,
        blocks: BlockReads,
        max_value_bytes: int,
    ) -> None:
        self.blocks: BlockReads | ClusterBlocks = blocks
        self.block_bytes = blocks.block_bytes
        self.group_bytes = GROUP_BLOCKS * blocks.block_bytes
        self.direct = 0
        self._node = node
        self._store = store
        self._existence = existence
        self._clock = node.clock
        self._max_value_bytes = max_value_bytes
        self._max_part_bytes = min(MAX_PART_BYTES, max_value_bytes)
        self._sequential = SequentialReads(blocks.block_bytes)

    def read_part(
        self, target: Object, range_of: RangeOf, timeout: float, owned_since: int = 0, if_match: str = ""
    ) -> Part | Coroutine[Any, Any, Part]:
        """Return the part if memory has the object, else an awaitable that has it within `timeout` seconds.

        With `if_match` only of the object with that ETag: otherwise, if there is one, raises ConditionFailed.
        Raises RangeNotSatisfiable, TooLarge for more of a large object than one reply may have, and as `Node.read`
        does.
        """
        known = None if owned_since == FENCED else self._known_large(target.cache_key, owned_since)
        if known is not None:
            found = self._from_block_memory(known, target, range_of, if_match)
            if found is not None:
                return found
            return self._read(target, range_of, timeout, owned_since, if_match, known, None)
        reading = self._node.uncounted.read(target, timeout, owned_since, whole=False)
        if isinstance(reading, Reply):
            return self._from_memory(target, reading, range_of, if_match)
        return self._read(target, range_of, timeout, owned_since, if_match, known, reading)

    def read_blocks(
        self, version: Version, part: ByteRange, group_bytes: int, ahead: ByteRange, timeout: float
    ) -> Part | Coroutine[Any, Any, Part | None] | None:
        """Return bytes of one version if this node keeps them, for a caller that is not the owner of the key.

        `part` is within one group of `group_bytes`. `ahead`: bytes that the caller will read next, of length 0 if
        they are not known. None, now or awaited: this node keeps another group, the version is known to be none
        any more, or S3 has another one. The owner of the key can tell then.
        """
        target, etag, size = version
        if not etag or group_bytes != self.group_bytes or not self._is_block_read(part, size):
            return None
        if not self._may_be_current(target.cache_key, etag):
            return None
        value = self.blocks.find_range(version, part)
        if value is None and not self.blocks.keeps(version, part):
            return None
        length = min(ahead.length, MAX_BLOCKS * self.block_bytes, size - ahead.offset)
        if ahead.offset >= 0 and length > 0:
            self.blocks.read_ahead(version, ByteRange(ahead.offset, length))
        if value is None:
            return self._read_blocks(version, part, timeout)
        return self._direct_part(version, "hit", value)

    def _is_block_read(self, part: ByteRange, size: int) -> bool:
        """True if `part` is within one group of an object of `size` bytes, and may be put together at once."""
        offset, length = part
        if offset < 0 or not 0 < length <= self._max_part_bytes or offset + length > size:
            return False
        return offset // self.group_bytes == (offset + length - 1) // self.group_bytes

    def _may_be_current(self, key: bytes, etag: str) -> bool:
        """False if this node knows a newer version than the one with `etag`, as the key's owner does.

        Also if TTL_SECONDS is 0: each read is to ask S3 then, as the owner does.
        """
        if key in self._node.dirty or key in self._node.memory or not self._existence.keeps_results:
            return False
        known = self._existence.get(key, 0)
        return known is None or same_etag(known.etag, etag)

    async def _read_blocks(self, version: Version, part: ByteRange, timeout: float) -> Part | None:
        try:
            piece = await self.blocks.read_range(version, part, timeout)
        except Replaced:
            return None
        except MilenaError:
            self._count(version.target, "error", 0)
            raise
        return self._direct_part(version, _outcome(piece), piece.value)

    def _direct_part(self, version: Version, outcome: str, value: bytes) -> Part:
        self.direct += 1
        self._count(version.target, outcome, len(value))
        return Part(
            Reply(outcome, entry_of(b"", version.etag, self._clock.now(), 0, NEVER), 0.0), value, version.size
        )

    def is_in_blocks(self, reply: Reply, size: int) -> bool:
        """True if parts of the object of `size` bytes that `reply` describes are kept in blocks."""
        entry = reply.entry
        if reply.dirty or not entry.etag or size <= self._node.max_whole_bytes:
            return False
        # The stand-in for a value that was not read is empty.
        return entry.value == b"" and self._existence.keeps_results

    def _known_large(self, key: bytes, owned_since: int) -> Known | None:
        """Return the size and ETag of an object that is read in parts; None: read it as any other."""
        if key in self._node.dirty or key in self._node.memory:
            return None
        known = self._existence.get(key, owned_since)
        return known if known is not None and (known.size or 0) > self._node.max_whole_bytes else None

    def bytes_in_memory(self, target: Object, byte_range: ByteRange, owned_since: int = 0) -> int:
        """Return how many bytes of blocks in memory a read of `byte_range` returns at most, without waiting."""
        known = None if owned_since == FENCED else self._known_large(target.cache_key, owned_since)
        if known is None:
            return 0
        return min(byte_range.max_bytes(known.size or 0), self._max_part_bytes, self._node.memory.lent)

    def _from_block_memory(self, known: Known, target: Object, range_of: RangeOf, if_match: str) -> Part | None:
        """Return the part if this node's memory has its blocks, and count the read; None in all other cases."""
        size = known.size or 0
        if not known.etag or (if_match and not same_etag(known.etag, if_match)):
            return None
        if is_expired(known.expires_at, self._clock.wall()):
            return None
        try:
            part = range_of(size)
        except RangeNotSatisfiable:
            return None  # of a newer version it may be satisfiable: see `_read`
        if not 0 < part.length <= self._max_part_bytes:
            return None
        version = Version(target, known.etag, size)
        value = self.blocks.find_range(version, part)
        if value is None:
            return None
        self._read_ahead(version, part)
        self._count(target, "hit", len(value))
        self._node.change_feed.notify(target.cache_key)  # as in `_read`
        return Part(Reply("hit", known.stand_in(), self._clock.now() - known.checked_at), value, size)

    def _from_memory(self, target: Object, reply: Reply, range_of: RangeOf, if_match: str) -> Part:
        """Return the part of a whole object, and count the read."""
        value = reply.entry.value
        if value is None:
            self._count(target, reply.outcome, 0)
            return Part(reply, b"", 0)
        try:
            if if_match and not same_etag(reply.entry.etag, if_match):
                raise _other_version(reply.entry.etag, if_match)
            start, length = range_of(len(value))
            if len(value) > self._node.max_whole_bytes:
                self._check_length(target.ref, ByteRange(start, length))
        except MilenaError:
            self._count(target, reply.outcome, 0 if reply.outcome in HITS else len(value))
            raise
        self._count(target, reply.outcome, length if reply.outcome in HITS else len(value))
        part = value if length == len(value) else value[start : start + length]
        return Part(reply, part, len(value))

    def _check_length(self, ref: Ref, part: ByteRange) -> None:
        """Raise TooLarge for a part of a large object that is more than one reply may have.

        Also if memory has all of the object: whether it has would decide otherwise if a caller gets its part.
        """
        if part.length > self._max_value_bytes:
            raise part_too_large(ref, part, self._max_value_bytes)
        if part.length > self._max_part_bytes:
            raise TooLarge(
                f"length: the range has {part.length} bytes of the large object {ref}; allowed are at most "
                f"{self._max_part_bytes} in one reply: request smaller parts, or read it as a stream (Read over "
                "gRPC, the S3 endpoint, a file or get_range of Milena's clients)"
            )

    def _count(self, target: Object, outcome: str, size: int) -> None:
        reads = self._node.reads
        count = reads.hit if outcome in HITS else reads.miss
        count(outcome, target.cache_key, size)

    async def _read(
        self,
        target: Object,
        range_of: RangeOf,
        timeout: float,
        owned_since: int,
        if_match: str,
        known: Known | None,
        reading: Awaitable[Reply] | None,
    ) -> Part:
        """Return the part, of the object that is `known` or else that `reading` finds."""
        node = self._node
        deadline = self._clock.now() + timeout
        for _ in range(MAX_CHANGES):
            remembered = known is not None
            if known is None:
                try:
                    known, reply = await self._whole(target, reading, deadline, owned_since)
                except MilenaError:
                    self._count(target, "error", 0)
                    raise
                if reply is not None:
                    return self._from_memory(target, reply, range_of, if_match)
            assert known is not None
            try:
                part = await self._from_s3(target, range_of, deadline, owned_since, if_match, known)
            except (RangeNotSatisfiable, ConditionFailed):
                # (1) The size and ETag of an object are remembered; (2) another writer replaces it; (3) the caller,
                # who has listed S3, requests the new one by its ETag, or a range that only the new one has.
                # Rejecting that by what is remembered would be wrong, so S3 is read anew.
                if not remembered:
                    self._count(target, "bypass", 0)
                    raise
                part = None
            except MilenaError:
                self._count(target, "error", 0)
                raise
            if part is not None:
                self._count(target, part.reply.outcome, len(part.value))
                # A near cache may keep this part, and there is no entry with which a later reply could be compared:
                # so notify now that the key has changed.
                node.change_feed.notify(target.cache_key)
                return part
            self._existence.clear_known(target.cache_key)
            known, reading = None, None
        self._count(target, "error", 0)
        raise OriginUnavailable(f"{target.ref}: was replaced {MAX_CHANGES} times while a part of it was read")

    async def _whole(
        self, target: Object, reading: Awaitable[Reply] | None, deadline: float, owned_since: int
    ) -> tuple[Known | None, Reply | None]:
        """Read the whole object, or only its size and ETag if it is over `Node.max_whole_bytes`."""
        sent_at = self._clock.now()
        try:
            if reading is None:
                timeout = max(0.0, deadline - sent_at)
                found = self._node.uncounted.read(target, timeout, owned_since, whole=False)
                return None, found if isinstance(found, Reply) else await found
            return None, await reading
        except TooLarge as large:
            info = large.found
            if info is None:
                raise
            return Known(info.size, info.etag, expiry_of(info.metadata, target.ref), sent_at, owned_since), None

    async def _from_s3(
        self, target: Object, range_of: RangeOf, deadline: float, owned_since: int, if_match: str, known: Known
    ) -> Part | None:
        """Return the part of the object that is `known`; None if S3 has another one."""
        size = known.size or 0
        if is_expired(known.expires_at, self._clock.wall()):
            self._node.writes.reaper.noticed(target, owned_since)
            return self._missing(owned_since)
        if if_match and not same_etag(known.etag, if_match):
            raise _other_version(known.etag, if_match)
        part = range_of(size)
        self._check_length(target.ref, part)
        if not part.length:
            return Part(Reply("hit", known.stand_in(), self._clock.now() - known.checked_at), b"", size)
        remaining = max(0.0, deadline - self._clock.now())
        if not known.etag:
            return await self._without_etag(target, part, known, remaining)
        version = Version(target, known.etag, size)
        self._read_ahead(version, part)
        try:
            piece = await self.blocks.read_range(version, part, remaining)
        except Replaced:
            return None
        return Part(_reply(piece, known, self._clock.now()), piece.value, size)

    def _read_ahead(self, version: Version, part: ByteRange) -> None:
        ahead = self._sequential.next_ahead(version, part)
        if ahead is not None:
            self.blocks.read_ahead(version, ahead)

    async def _without_etag(self, target: Object, part: ByteRange, known: Known, remaining: float) -> Part | None:
        """Return the part of an object of a store that gives no ETags, so that nothing of it can be kept.

        Another version of the same size is not noticed.
        """
        request = self._store.get(target.ref, byte_range=part, max_bytes=self._max_value_bytes)
        got = await within(request, remaining, f"S3 get of {target.ref}")
        if isinstance(got, Absent) or got.size != known.size or got.etag:
            return None
        return Part(Reply("bypass", known.stand_in(), 0.0), bytes(got.content), known.size or 0)

    def _missing(self, owned_since: int) -> Part:
        return Part(Reply("miss", Entry(None, "", self._clock.now(), owned_since), 0.0), b"", 0)


def _reply(piece: Piece, known: Known, now: float) -> Reply:
    """Return the reply to a read of blocks. S3 has confirmed the ETag with the blocks that it returned."""
    age = max(0.0, now - known.checked_at)
    return Reply(_outcome(piece), known.stand_in(), 0.0 if piece.fetched else age)


def _outcome(piece: Piece) -> str:
    if piece.fetched:
        return "miss"
    return "coalesced" if piece.waited else "hit"


def _other_version(etag: str, if_match: str) -> ConditionFailed:
    return ConditionFailed(f"if_match: the object's ETag is {etag or 'not known'}, not {if_match}")
