"""Coordination. S3 as one node of a simulation reaches it: over the network, with its delays, losses and outages.

A request that S3 has received happens, also if the node was killed meanwhile; one that is lost on its way never
happens, and the node finds out by its timeout. `slow` and `failing` are faults of S3 itself. No request arrives
after its node's timeout: a PUT that did so would bring back an object that was deleted since, and S3 has no means
against that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any

from milena_cache.objects.object_store import (
    NO_ATTRIBUTES,
    NO_METADATA,
    Absent,
    Fault,
    Info,
    OriginFailure,
    Page,
    Ref,
    Stored,
    ignore,
)
from milena_common.api.byte_range import ByteRange
from tests.simulation.loop import here
from tests.simulation.network import SYSTEM, Network
from tests.support.s3.memory_store import MemoryStore

HOST = "s3"
# Virtual seconds that S3 takes for a request, and after which a node gives up, one attempt.
MIN_SECONDS, MAX_SECONDS = 0.005, 0.03
TIMEOUT = 1.5
MAX_SLOW = 1.2


class S3:
    """The objects, and the faults of S3: seconds that a request takes longer (`slow`), the share that fails."""

    def __init__(self, store: MemoryStore, rng: Random) -> None:
        self.store = store
        self.rng = rng
        self.slow = 0.0
        self.failing = 0.0


def done_at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the store in memory waits for something")


class NodeStore:
    """Implements `ObjectStore` for the node on the machine `host`."""

    def __init__(self, s3: S3, network: Network, host: str) -> None:
        self._s3 = s3
        self._network = network
        self._host = host

    async def _request(self, operation: str, ref: Ref, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        network, s3, host = self._network, self._s3, self._host
        loop = network.loop
        replied: asyncio.Future[Any] = loop.create_future()
        context = here().context

        def arrived() -> None:
            network.record(host, operation, ref.key)
            fails = s3.rng.random() < s3.failing
            before = s3.rng.random() < 0.5
            if fails and before:
                reply(OriginFailure(Fault.SERVER, operation, ref, "InternalError", "500"))
                return
            try:
                result = done_at_once(work())
            except Exception as error:
                result = error
            if fails:
                result = OriginFailure(Fault.SERVER, operation, ref, "InternalError", "500")
            reply(result)

        def reply(result: Any) -> None:
            if not network.is_blocked(HOST, host):
                loop.call_later(network.delay(HOST, host), received, result, context=context)

        def received(result: Any) -> None:
            if replied.done():
                return
            if isinstance(result, Exception):
                replied.set_exception(result)
            else:
                replied.set_result(result)

        if not network.is_blocked(host, HOST):
            takes = network.delay(host, HOST) + s3.rng.uniform(MIN_SECONDS, MAX_SECONDS) + s3.slow
            loop.call_later(takes, arrived, context=SYSTEM)
        try:
            return await asyncio.wait_for(replied, TIMEOUT)
        except TimeoutError:
            raise OriginFailure(Fault.TIMEOUT, operation, ref, "no response", "timeout") from None

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
        def work() -> Coroutine[Any, Any, Stored | Absent]:
            return self._s3.store.get(
                ref, if_none_match=if_none_match, if_match=if_match, byte_range=byte_range, max_bytes=max_bytes
            )

        found: Stored | Absent = await self._request("get", ref, work)
        began()
        return found

    async def head(self, ref: Ref) -> Info | None:
        found: Info | None = await self._request("head", ref, lambda: self._s3.store.head(ref))
        return found

    async def describe(self, ref: Ref) -> Info | None:
        found: Info | None = await self._request("head", ref, lambda: self._s3.store.describe(ref))
        return found

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
        def work() -> Coroutine[Any, Any, str]:
            return self._s3.store.put(
                ref, value, if_match=if_match, if_absent=if_absent, metadata=metadata, attributes=attributes
            )

        etag: str = await self._request("put", ref, work)
        return etag

    async def copy(
        self, ref: Ref, *, if_match: str = "", metadata: Mapping[str, str], attributes: Mapping[str, Any]
    ) -> str:
        def work() -> Coroutine[Any, Any, str]:
            return self._s3.store.copy(ref, if_match=if_match, metadata=metadata, attributes=attributes)

        etag: str = await self._request("copy", ref, work)
        return etag

    async def delete(self, ref: Ref, *, if_match: str = "") -> None:
        await self._request("delete", ref, lambda: self._s3.store.delete(ref, if_match=if_match))

    async def list(
        self, bucket: str, prefix: str, cursor: str, limit: int, delimiter: str = "", after: str = ""
    ) -> Page:
        def work() -> Coroutine[Any, Any, Page]:
            return self._s3.store.list(bucket, prefix, cursor, limit, delimiter, after)

        page: Page = await self._request("list", Ref(bucket, prefix), work)
        return page

    async def check_bucket(self, bucket: str) -> None:
        await self._request("bucket", Ref(bucket, ""), lambda: self._s3.store.check_bucket(bucket))

    def reconnect(self) -> None:
        pass

    async def close(self) -> None:
        pass
