"""An uploader over fakes, and writes for it to bring to S3."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf
from typing import Any

import pytest

from milena_cache.objects.lineage import Lineages
from milena_cache.objects.object_store import OriginFailure, Ref
from milena_cache.objects.version import UNKNOWN, Version, stamp
from milena_cache.origin.conditions import Conditions
from milena_cache.origin.requests import Origin
from milena_cache.writeback.uploads.s3_belief import S3Belief
from milena_cache.writeback.uploads.upload import Uploader, UploadOutcome, UploadResult, Write
from tests.support.conditions import made_conditions
from tests.support.fake_clock import FakeClock
from tests.support.s3.memory_store import MemoryStore, WithMetadata, etag_of

REF = Ref("bucket", "k")
OURS = Version(5, 7)
LINEAGE = "0123456789abcdef"
OTHER_LINEAGE = "fedcba9876543210"
DONE = UploadResult(UploadOutcome.UPLOADED, etag_of(b"ours"))
BELIEF_FIELDS = {field.name for field in fields(S3Belief)}
ALREADY = UploadResult(UploadOutcome.ALREADY, etag_of(b"ours"))


class Harness:
    """An uploader in front of an S3 that a test may fill."""

    def __init__(
        self,
        store: MemoryStore | None = None,
        conditions: Conditions | None = None,
        lineage: str = LINEAGE,
    ) -> None:
        self.clock = FakeClock()
        self.store = store or MemoryStore("bucket")
        origin = Origin(
            self.store,
            self.clock,
            lambda: 0.5,
            retries=3,
            concurrency=10,
            place_timeout=5,
            fresh=self.store,
            hedge_after=5.0,
        )
        self.uploader = Uploader(origin, conditions or made_conditions(), Lineages({}, lineage))

    def holds(self, value: bytes | None, version: Version | None = None, lineage: str = LINEAGE) -> str:
        """S3 holds `value` now, written by Milena if there is a `version`; its ETag."""
        if value is None:
            self.store.objects.pop(REF, None)
            return ""
        self.store.objects[REF] = WithMetadata(value, stamp(version, REF, lineage)) if version else value
        return etag_of(value)

    async def upload(self, write: Write) -> UploadResult:
        return await self.uploader.upload(write, inf)

    async def fails(self, write: Write) -> OriginFailure:
        with pytest.raises(OriginFailure) as failed:
            await self.upload(write)
        return failed.value

    @property
    def requested(self) -> list[str]:
        """The operations that S3 got since the last time."""
        requested = [operation for operation, _ in self.store.calls]
        self.store.calls.clear()
        return requested

    @property
    def has(self) -> bytes | None:
        return self.store.objects.get(REF)


def put(**known: Any) -> Write:
    """A write; `known` are fields of it and of its belief."""
    believed = {name: known.pop(name) for name in [*known] if name in BELIEF_FIELDS}
    write = Write(REF, OURS, b"ours", S3Belief(UNKNOWN), "overwrite")
    return replace(write, belief=replace(write.belief, **believed), **known)


def delete(**known: Any) -> Write:
    return put(value=None, **known)
