"""An `ObjectStore` in memory, whose failures and delays are the test's to decide."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import md5
from typing import Any

from milena_cache.objects.object_store import (
    NO_ATTRIBUTES,
    NO_METADATA,
    Absent,
    Fault,
    Info,
    OriginFailure,
    Page,
    PartStream,
    Ref,
    Stored,
    ignore,
    part_too_large,
    too_large,
)
from milena_common.api.byte_range import ByteRange
from milena_common.api.uploads import PartsPage, Upload, UploadedPart, UploadsPage


def etag_of(value: bytes) -> str:
    """What S3 gives for an object: one that was stored in parts has another ETag than one that was put."""
    if isinstance(value, WithMetadata) and value.etag:
        return value.etag
    return f'"{md5(value, usedforsecurity=False).hexdigest()}"'


# S3's lower limit for all parts of an object but the last one.
MIN_PART_BYTES = 5 * 2**20


class WithMetadata(bytes):
    """A value that was written with metadata. One that a test writes as plain bytes has none."""

    metadata: Mapping[str, str]
    attributes: Mapping[str, Any]
    etag: str  # of an object that was stored in parts

    def __new__(
        cls,
        value: bytes,
        metadata: Mapping[str, str],
        attributes: Mapping[str, Any] = NO_ATTRIBUTES,
        etag: str = "",
    ) -> WithMetadata:
        made = super().__new__(cls, value)
        made.etag = etag
        made.metadata = {name.lower(): text for name, text in metadata.items()}
        made.attributes = dict(attributes)
        return made


def metadata_of(value: bytes) -> Mapping[str, str]:
    return value.metadata if isinstance(value, WithMetadata) else NO_METADATA


def attributes_of(value: bytes) -> Mapping[str, Any]:
    return value.attributes if isinstance(value, WithMetadata) else NO_ATTRIBUTES


class MemoryStore:
    """`calls` records (operation, key). Faults queued with `fail` are met by the next calls, one each.

    `objects` may be read and changed at any time, as by another writer. Nothing comes between a condition that
    holds and the effect. One that does not is reported at once, also where a failure was to come after the effect:
    there is none.

    While `gate` is clear, every call waits at its start, after it was recorded. `read_gate` holds back the reply
    of a get that has already read, `write_gate` that of a put or delete that has already happened. `down` makes
    every call fail, `reject` those for which it names a fault. `date` is the time of day at S3.

    Operations in `ignoring` take conditions and ignore them, those in `denying` reply to every condition with
    CHANGED, those in `unsupporting` with UNSUPPORTED; the operations are "create", "replace", "delete" and "copy".
    `spell` changes how a HEAD spells an ETag.
    """

    def __init__(self, *buckets: str) -> None:
        self.objects: dict[Ref, bytes] = {}
        # Those in parts that have begun, with their metadata and the parts by number.
        self.uploads: dict[tuple[Ref, str], tuple[WithMetadata, dict[int, bytes]]] = {}
        self.buckets = set(buckets)
        self.calls: list[tuple[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.read_gate = asyncio.Event()
        self.read_gate.set()
        self.write_gate = asyncio.Event()
        self.write_gate.set()
        self.down: Fault | None = None
        self.reconnects = 0
        self.reject: Callable[[str, Ref], Fault | None] | None = None
        self.ignoring: set[str] = set()
        self.denying: set[str] = set()
        self.unsupporting: set[str] = set()
        self.spell: Callable[[str], str] = lambda etag: etag
        self.date: Callable[[], float | None] = lambda: 1_700_000_000.0
        self._faults: deque[tuple[Fault, bool]] = deque()
        self._arrived = asyncio.Condition()

    def fail(self, fault: Fault, *, times: int = 1, after_effect: bool = False) -> None:
        """The next `times` calls fail; with `after_effect` a write has happened before it does."""
        self._faults.extend([(fault, after_effect)] * times)

    def lose_waiting(self) -> None:
        """The calls that wait at `gate` get no reply; later ones pass."""
        self.gate = asyncio.Event()
        self.gate.set()

    def recover(self) -> None:
        """No call fails any more, unless `reject` says so."""
        self.down = None
        self._faults.clear()

    @property
    def failing(self) -> bool:
        """Whether the next call fails."""
        return self.down is not None or bool(self._faults)

    def count(self, operation: str) -> int:
        return sum(1 for name, _ in self.calls if name == operation)

    async def arrived(self, operation: str, times: int = 1) -> None:
        """Return when so many calls of `operation` have begun."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.count(operation) >= times)

    async def _enter(self, operation: str, ref: Ref) -> OriginFailure | None:
        """Raise a failure that comes before the effect; return one that comes after it."""
        self.calls.append((operation, ref.key))
        async with self._arrived:
            self._arrived.notify_all()
        await self.gate.wait()
        if self.down is not None:
            raise _failure(self.down, operation, ref)
        rejected = self.reject(operation, ref) if self.reject is not None else None
        if rejected is not None:
            raise _failure(rejected, operation, ref)
        if self._faults:
            fault, after_effect = self._faults.popleft()
            if not after_effect or operation not in ("put", "copy", "complete", "delete"):
                raise _failure(fault, operation, ref)
            return _failure(fault, operation, ref)
        if ref.bucket not in self.buckets:
            raise _failure(Fault.NO_BUCKET, operation, ref)
        return None

    async def get(
        self,
        ref: Ref,
        *,
        if_none_match: str = "",
        if_match: str = "",
        byte_range: ByteRange | None = None,
        max_bytes: int,
        began: Callable[[], None] = ignore,
    ) -> Stored | Absent:
        await self._enter("get", ref)
        began()
        value = self.objects.get(ref)
        await self.read_gate.wait()
        if value is None:
            return Absent.MISSING
        if if_match and if_match != etag_of(value):
            raise _failure(Fault.CHANGED, "get", ref)
        if if_none_match == etag_of(value):
            return Absent.NOT_MODIFIED
        if byte_range is not None:
            if byte_range.offset >= len(value):
                return Absent.BEYOND_END
            part = byte_range.within(len(value))
            if part.length > max_bytes:
                raise part_too_large(ref, part, max_bytes)
            return Stored(byte_range.of(bytes(value)), etag_of(value), metadata_of(value), size=len(value))
        if len(value) > max_bytes:
            raise too_large(ref, len(value), max_bytes, etag_of(value), metadata_of(value))
        return Stored(bytes(value), etag_of(value), metadata_of(value))

    def _meets(self, condition: str, ref: Ref, holds: bool) -> None:
        """Raise what this store makes of a condition that `holds` or not."""
        operation = condition if condition in ("delete", "copy") else "put"
        if condition in self.unsupporting:
            raise _failure(Fault.UNSUPPORTED, operation, ref)
        if condition in self.denying or not (holds or condition in self.ignoring):
            raise _failure(Fault.CHANGED, operation, ref)

    async def head(self, ref: Ref) -> Info | None:
        await self._enter("head", ref)
        value = self.objects.get(ref)
        if value is None:
            return None
        return Info(ref.key, len(value), self.spell(etag_of(value)), 0.0, metadata_of(value))

    async def describe(self, ref: Ref) -> Info | None:
        found = await self.head(ref)
        if found is None:
            return None
        return replace(found, attributes=attributes_of(self.objects[ref]), server_date=self.date())

    async def put(
        self,
        ref: Ref,
        value: bytes,
        *,
        if_match: str = "",
        if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
        attributes: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> str:
        failure = await self._enter("put", ref)
        before = self.objects.get(ref)
        if if_absent:
            self._meets("create", ref, before is None)
        if if_match:
            self._meets("replace", ref, before is not None and etag_of(before) == if_match)
        self.objects[ref] = WithMetadata(value, metadata, attributes) if metadata or attributes else value
        await self.write_gate.wait()
        if failure:
            raise failure
        return etag_of(value)

    async def copy(
        self, ref: Ref, *, if_match: str = "", metadata: Mapping[str, str], attributes: Mapping[str, Any]
    ) -> str:
        failure = await self._enter("copy", ref)
        if "copying" in self.unsupporting:
            raise _failure(Fault.UNSUPPORTED, "copy", ref)
        before = self.objects.get(ref)
        if before is None:
            raise _failure(Fault.CHANGED, "copy", ref)
        if if_match:
            self._meets("copy", ref, etag_of(before) == if_match)
        self.objects[ref] = WithMetadata(bytes(before), metadata, attributes)
        await self.write_gate.wait()
        if failure:
            raise failure
        return etag_of(bytes(before))

    async def create_multipart(
        self, ref: Ref, *, metadata: Mapping[str, str] = NO_METADATA, attributes: Mapping[str, Any] = NO_ATTRIBUTES
    ) -> str:
        await self._enter("multipart", ref)
        upload = f"upload-{len(self.calls)}"
        self.uploads[ref, upload] = WithMetadata(b"", metadata, attributes), {}
        return upload

    async def upload_part(self, ref: Ref, upload: str, number: int, value: bytes | bytearray) -> str:
        await self._enter("part", ref)
        if (ref, upload) not in self.uploads:
            raise OriginFailure(Fault.REJECTED, "part", ref, "NoSuchUpload", "404")
        self.uploads[ref, upload][1][number] = bytes(value)
        return etag_of(bytes(value))

    async def stream_part(self, ref: Ref, upload: str, number: int, body: PartStream) -> str:
        def read() -> bytes:
            return b"".join(iter(lambda: body.read(2**16), b""))

        try:
            value = await asyncio.to_thread(read)
        except OSError as error:
            raise OriginFailure(Fault.INCOMPLETE, "part", ref, str(error), "incomplete") from None
        return await self.upload_part(ref, upload, number, value)

    async def copy_part(
        self, ref: Ref, upload: str, number: int, source: Ref, byte_range: ByteRange, *, if_match: str = ""
    ) -> UploadedPart:
        value = self.objects.get(source)
        self._meets("part", ref, value is not None and if_match in ("", etag_of(value)))
        assert value is not None
        part = byte_range.of(bytes(value))
        return UploadedPart(number, await self.upload_part(ref, upload, number, part), len(part))

    async def list_parts(self, ref: Ref, upload: str, after: int, limit: int) -> PartsPage:
        await self._enter("list", ref)
        if (ref, upload) not in self.uploads:
            raise OriginFailure(Fault.REJECTED, "list", ref, "NoSuchUpload", "404")
        parts = self.uploads[ref, upload][1]
        found = [UploadedPart(n, etag_of(parts[n]), len(parts[n])) for n in sorted(parts) if n > after]
        return PartsPage(found[:limit], len(found) > limit)

    async def list_uploads(
        self, bucket: str, prefix: str, delimiter: str, after: tuple[str, str], limit: int
    ) -> UploadsPage:
        await self._enter("list", Ref(bucket, prefix))
        found = [
            Upload(ref.key, upload, 0.0)
            for ref, upload in sorted(self.uploads)
            if ref.bucket == bucket and ref.key.startswith(prefix) and (ref.key, upload) > after
        ]
        page, last = found[:limit], found[limit - 1 : limit]
        more = len(found) > limit
        return UploadsPage(page, (), last[0].key if more else "", last[0].upload if more else "")

    async def complete_multipart(
        self,
        ref: Ref,
        upload: str,
        etags: Sequence[str],
        *,
        numbers: Sequence[int] = (),
        if_match: str = "",
        if_absent: bool = False,
    ) -> str:
        failure = await self._enter("complete", ref)
        if (ref, upload) not in self.uploads:
            raise OriginFailure(Fault.REJECTED, "multipart", ref, "NoSuchUpload", "404")
        before = self.objects.get(ref)
        if if_absent:
            self._meets("create", ref, before is None)
        if if_match:
            self._meets("replace", ref, before is not None and etag_of(before) == if_match)
        begun, parts = self.uploads[ref, upload]
        chosen = [parts.get(number, b"") for number in numbers or range(1, len(etags) + 1)]
        if [etag_of(part) for part in chosen] != list(etags):
            raise OriginFailure(Fault.REJECTED, "multipart", ref, "InvalidPart", "400")
        if any(len(part) < MIN_PART_BYTES for part in chosen[:-1]):
            raise OriginFailure(Fault.REJECTED, "multipart", ref, "EntityTooSmall", "400")
        del self.uploads[ref, upload]
        digests = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags)
        etag = f'"{md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"'
        self.objects[ref] = WithMetadata(b"".join(chosen), begun.metadata, begun.attributes, etag)
        await self.write_gate.wait()
        if failure:
            raise failure
        return etag

    async def abort_multipart(self, ref: Ref, upload: str) -> None:
        await self._enter("abort", ref)
        self.uploads.pop((ref, upload), None)

    async def delete(self, ref: Ref, *, if_match: str = "") -> None:
        failure = await self._enter("delete", ref)
        before = self.objects.get(ref)
        if if_match:
            self._meets("delete", ref, before is None or etag_of(before) == if_match)
        self.objects.pop(ref, None)
        await self.write_gate.wait()
        if failure:
            raise failure

    async def list(
        self, bucket: str, prefix: str, cursor: str, limit: int, delimiter: str = "", after: str = ""
    ) -> Page:
        await self._enter("list", Ref(bucket, prefix))
        keys = {ref.key for ref in self.objects if ref.bucket == bucket and ref.key.startswith(prefix)}
        common = {key: _common_prefix(key, prefix, delimiter) for key in keys}
        rest = sorted(
            (name for name in {common[key] or key for key in keys} if name > (cursor or after)), key=str.encode
        )
        prefixes = set(common.values())
        page = [
            Info(key, len(value), etag_of(value), 0.0)
            for key in rest[:limit]
            if key not in prefixes
            for value in [self._value(bucket, key)]
        ]
        cursor = rest[limit - 1] if len(rest) > limit else ""
        return Page(page, cursor, [name for name in rest[:limit] if name in prefixes])

    def _value(self, bucket: str, key: str) -> bytes:
        return self.objects[Ref(bucket, key)]

    async def check_bucket(self, bucket: str) -> None:
        await self._enter("bucket", Ref(bucket, ""))

    def reconnect(self) -> None:
        self.reconnects += 1

    async def close(self) -> None:
        pass


def _common_prefix(key: str, prefix: str, delimiter: str) -> str:
    """The common prefix that stands for `key` in a listing; "" if the key itself is listed."""
    at = key.find(delimiter, len(prefix)) if delimiter else -1
    return key[: at + len(delimiter)] if at >= 0 else ""


def _failure(fault: Fault, operation: str, ref: Ref) -> OriginFailure:
    return OriginFailure(fault, operation, ref, fault.name, fault.label)
