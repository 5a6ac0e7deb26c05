"""Coordination. S3 as one `ObjectStore`: obstore where it is exact, boto3 for the rest."""

from __future__ import annotations

from milena_cache.s3_boto3 import Boto3Store
from milena_cache.s3_obstore import ObstoreStore, exact
from milena_cache.store import Absent, Info, Page, Ref, Stored


class S3:
    """Every byte-exact key, at obstore's speed wherever it keeps the key as it is."""

    def __init__(self, fast: ObstoreStore, thorough: Boto3Store) -> None:
        self._fast = fast
        self._thorough = thorough

    def _for(self, ref: Ref) -> ObstoreStore | Boto3Store:
        return self._fast if exact(ref.key) else self._thorough

    async def get(self, ref: Ref, *, if_none_match: str = "", max_bytes: int) -> Stored | Absent:
        return await self._for(ref).get(ref, if_none_match=if_none_match, max_bytes=max_bytes)

    async def head(self, ref: Ref) -> Info | None:
        return await self._for(ref).head(ref)

    async def put(self, ref: Ref, value: bytes) -> str:
        return await self._for(ref).put(ref, value)

    async def delete(self, ref: Ref) -> None:
        await self._for(ref).delete(ref)

    async def list(self, bucket: str, prefix: str, cursor: str, limit: int) -> Page:
        return await self._thorough.list(bucket, prefix, cursor, limit)

    async def check_bucket(self, bucket: str) -> None:
        await self._thorough.check_bucket(bucket)

    async def close(self) -> None:
        await self._thorough.close()
