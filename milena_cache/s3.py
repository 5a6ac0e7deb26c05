"""Coordination. S3 as one `ObjectStore`: obstore where it is exact, boto3 for the rest."""

from __future__ import annotations

from collections.abc import Mapping

from milena_cache.s3_boto3 import Boto3Store
from milena_cache.s3_obstore import ObstoreStore, Unreadable, exact
from milena_cache.store import NO_METADATA, Absent, Info, Page, Ref, Stored


class S3:
    """Every byte-exact key, at obstore's speed wherever it keeps the key as it is and can do what is asked."""

    def __init__(self, fast: ObstoreStore, thorough: Boto3Store) -> None:
        self._fast = fast
        self._thorough = thorough

    async def get(self, ref: Ref, *, if_none_match: str = "", max_bytes: int) -> Stored | Absent:
        if exact(ref.key):
            try:
                return await self._fast.get(ref, if_none_match=if_none_match, max_bytes=max_bytes)
            except Unreadable:
                pass
        return await self._thorough.get(ref, if_none_match=if_none_match, max_bytes=max_bytes)

    async def head(self, ref: Ref) -> Info | None:
        if exact(ref.key):
            try:
                return await self._fast.head(ref)
            except Unreadable:
                pass
        return await self._thorough.head(ref)

    async def put(
        self,
        ref: Ref,
        value: bytes,
        *,
        if_match: str = "",
        if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> str:
        store = self._fast if exact(ref.key) else self._thorough
        return await store.put(ref, value, if_match=if_match, if_absent=if_absent, metadata=metadata)

    async def delete(self, ref: Ref, *, if_match: str = "") -> None:
        if exact(ref.key) and not if_match:
            await self._fast.delete(ref)
        else:
            await self._thorough.delete(ref, if_match=if_match)

    async def list(self, bucket: str, prefix: str, cursor: str, limit: int) -> Page:
        return await self._thorough.list(bucket, prefix, cursor, limit)

    async def check_bucket(self, bucket: str) -> None:
        await self._thorough.check_bucket(bucket)

    async def close(self) -> None:
        await self._thorough.close()
