"""Coordination. Multipart uploads that callers make themselves, part by part, as S3's protocol has them.

S3 has their parts, and the callers their ids, so that any node serves any part, and no node knows of them. Nothing
of an object is visible before it is completed, which its owner does as any other write of the key:

    any node    create ── part ── part ── …              parts pass through, with bounded memory
    owner                                    complete    in turn with the key's other writes

They have no version, since a node that begins one may not own the key. An earlier write of the key must not be
taken for the later one because of that: `WriteThrough.store_parts` waits for its upload, and removes its records
and copies before the acknowledgement. An object is recognized by the ETag that its parts give it.

If the outcome of `complete` is unknown, the upload is removed, as `assembly` says: a request that S3 carries out
later could replace later writes. The caller then has to send the object again. If only the reply is lost, a caller
that repeats the request gets the same acknowledgement, if it is among the last MAX_ACKNOWLEDGED of this node.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from milena_cache.objects.names import Object
from milena_cache.objects.object_store import OriginFailure, PartStream, Ref
from milena_cache.objects.properties import attributes_of
from milena_cache.objects.write_request import Ack, Change
from milena_cache.origin.requests import Origin
from milena_cache.writes.assembly import Assembly, Completed, Upload
from milena_cache.writes.writer import Writes
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import MilenaError
from milena_common.api.properties import Properties
from milena_common.api.uploads import PartsPage, UploadedPart, UploadsPage
from milena_common.runtime.clock import Clock

MAX_ACKNOWLEDGED: Final = 1000

T = TypeVar("T")


class _Parts:
    """The parts of one upload, as its caller lists them."""

    def __init__(self, upload: Upload, assembly: Assembly) -> None:
        self._upload = upload
        self._assembly = assembly

    async def complete(self, change: Change, deadline: float, *, decided: bool) -> Completed:
        return await self._assembly.complete(self._upload, change, deadline, decided=decided)


class ClientUploads:
    """The uploads, of one node. `timeout`: seconds. All methods raise S3's errors."""

    def __init__(self, origin: Origin, writes: Writes, assembly: Assembly, clock: Clock) -> None:
        self._origin = origin
        self._writes = writes
        self._assembly = assembly
        self._clock = clock
        self._acknowledged: OrderedDict[tuple[bytes, str], Ack] = OrderedDict()

    async def create(self, target: Object, timeout: float, properties: Properties) -> str:
        """Begin an upload, and return its id."""
        return await _as_error(
            self._origin.create_multipart(
                target.ref,
                self._clock.now() + timeout,
                metadata=properties.metadata,
                attributes=attributes_of(properties.headers),
            )
        )

    async def add_part(
        self, target: Object, upload: str, number: int, value: bytes | PartStream, timeout: float
    ) -> str:
        """Store a part, and return its ETag."""
        deadline = self._clock.now() + timeout
        if isinstance(value, bytes):
            return await _as_error(self._origin.upload_part(target.ref, upload, number, value, deadline))
        return await _as_error(self._origin.stream_part(target.ref, upload, number, value, deadline))

    async def copy_part(
        self,
        target: Object,
        upload: str,
        number: int,
        source: Ref,
        byte_range: ByteRange,
        timeout: float,
        if_match: str,
    ) -> UploadedPart:
        """Store a part of what S3 has of another object."""
        deadline = self._clock.now() + timeout
        return await _as_error(
            self._origin.copy_part(target.ref, upload, number, source, byte_range, deadline, if_match=if_match)
        )

    async def complete(self, change: Change, upload: str, parts: Sequence[UploadedPart], timeout: float) -> Ack:
        """Make the object of its parts. For the owner of its key. Raises as `Writes.store_parts` does."""
        name = change.target.cache_key, upload
        etags, numbers = [part.etag for part in parts], [part.number for part in parts]
        made = _Parts(Upload(change.target.ref, upload, etags, numbers), self._assembly)
        try:
            ack = await self._writes.store_parts(change, made, timeout)
        except MilenaError:
            # S3 has no such upload any more when it is completed for the second time.
            if name in self._acknowledged:
                return self._acknowledged[name]
            raise
        self._acknowledged[name] = ack
        if len(self._acknowledged) > MAX_ACKNOWLEDGED:
            self._acknowledged.popitem(last=False)
        return ack

    async def abandon_upload(self, target: Object, upload: str, timeout: float) -> None:
        """Drop an upload; no error if there is none."""
        await _as_error(self._origin.abort_multipart(target.ref, upload, self._clock.now() + timeout))

    async def list_parts(self, target: Object, upload: str, after: int, limit: int) -> PartsPage:
        return await _as_error(self._origin.list_parts(target.ref, upload, after, limit))

    async def list_uploads(
        self, bucket: str, prefix: str, delimiter: str, after: tuple[str, str], limit: int
    ) -> UploadsPage:
        return await _as_error(self._origin.list_uploads(bucket, prefix, delimiter, after, limit))


async def _as_error(requested: Awaitable[T]) -> T:
    try:
        return await requested
    except OriginFailure as failure:
        raise failure.as_error() from None
