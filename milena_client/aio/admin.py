"""Coordination. The admin client for an event loop: runs the operations of `core.admin`, all through the router.

Its sync twin is made from this file by scripts/sync-client.
It decides nothing itself, and keeps nothing but its connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from milena_client.aio.caller import AsyncCaller
from milena_client.core import admin, operations
from milena_client.core.admin import DeadLetters, NodeStats, Ownership, Refreshed, RingView
from milena_client.core.calls import Retries
from milena_client.core.estimates.hot_keys import HotKeys, read_hot_keys
from milena_client.core.estimates.sizes import NodeSizes, read_sizes
from milena_client.core.jobs import SweepJob, Swept, Warmed, WarmJob
from milena_client.core.limits import DEFAULT_TIMEOUT, FLUSH_TIMEOUT
from milena_client.core.options import ADMIN, Options, reduced
from milena_client.core.retry import DEFAULT_RETRY, RetryPolicy
from milena_client.core.url import DEFAULT_ADDRESS, as_target
from milena_client.core.values import Flushed, Key, checked_bucket, key_list
from milena_common.api.credentials import Credentials
from milena_common.api.errors import MilenaError
from milena_common.rpc.failover import async_router_transport
from milena_common.rpc.transport import AsyncTransport
from milena_common.runtime.clock import Clock, SystemClock
from milena_common.tls.certificates import Certificates
from milena_common.tls.settings import TlsFiles

# Seconds for the call that ends a job, after which the nodes forget it by themselves.
_END_SECONDS = 1.0


class AsyncAdmin:
    """The operator's calls to the router at `address`, for asyncio: the methods of `Admin`, to be awaited.

    Parameters and errors are those of `Milena`. The `direct` of a URL is ignored: all calls go to the router.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        bucket: str = "",
        timeout: float | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
        transport: AsyncTransport | None = None,
        clock: Clock | None = None,
        tls: TlsFiles | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        target = as_target(address)
        credentials = credentials or target.credentials
        address = self.address = target.address
        bucket = self._bucket = checked_bucket(bucket or target.bucket)
        timeout = target.seconds(timeout, DEFAULT_TIMEOUT)
        tls = tls or target.tls
        replaced = transport is not None or clock is not None
        self.options = Options(bucket, timeout, retry, replaced=replaced, tls=tls, credentials=credentials)
        retries = Retries(timeout, retry)
        certificates = None if tls is None or transport is not None else Certificates(tls)
        self._transport = transport or async_router_transport(
            address, certificates=certificates, credentials=lambda: credentials
        )
        self._clock = clock or SystemClock()
        self._run = AsyncCaller(self._transport, retries, self._clock).run

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self, self.address, self.options, ADMIN)

    async def nodes(self) -> RingView:
        """Return the nodes of the ring, by address."""
        return await self._run(admin.list_nodes())

    async def owner(self, key: Key) -> Ownership:
        """Return which node owns `key`. Raises InvalidRequest for an invalid key."""
        return await self._run(admin.find_owner(key, self._bucket))

    async def stats(self) -> list[NodeStats]:
        """Return the counts of every node of the ring; those of a node that does not respond have an `error`."""
        return await self._run(admin.read_stats())

    async def memory_sizes(self) -> list[NodeSizes]:
        """Return what memories of other sizes would mean for each node: hits, requests to S3 and money.

        Estimated from a sample of its keys. `together` puts the nodes together. Those of a node that does not
        respond have an `error`.
        """
        return await self._run(read_sizes())

    async def hot_keys(self, *, reset: bool = False) -> HotKeys:
        """Return the keys that are read most, in all nodes; with `reset`, the nodes begin to count anew."""
        return await self._run(read_hot_keys(reset=reset))

    async def leave(self, address: str, *, forget: bool = False) -> bool:
        """Take the node at `address` out of the ring, and return True; False if it is not in it.

        A node that is still running joins again within a third of its lease: stop it first. With `forget`, write
        off the missing node that was at `address`: it is no longer shown, and no node of the ring is touched.
        """
        return await self._run(admin.remove_node(address, forget))

    async def flush(self, keys: Iterable[Key] = (), *, timeout: float = FLUSH_TIMEOUT) -> Flushed:
        """Wait as `Milena.flush` does, for at most `timeout` seconds; with `keys`, for their writes alone."""
        return await self._run(operations.flush(key_list(keys), self._bucket), timeout)

    async def refresh(self, keys: Iterable[Key] = (), *, prefix: Key | None = None) -> Refreshed:
        """Drop the nodes' clean entries of `keys`, or of all keys that begin with `prefix`: the next read goes to
        S3.

        S3 is not touched, and what is dirty is kept. Raises InvalidRequest for both, or neither, of `keys` and
        `prefix`; Unavailable if a node that owns some of them does not respond, after the others have dropped
        theirs.
        """
        return await self._run(admin.refresh(keys, prefix, self._bucket))

    def purge(self, prefix: Key, *, rate: float | None = None, dry_run: bool = False) -> AsyncIterator[Swept]:
        """Drop the nodes' clean entries of all keys that begin with `prefix`, in parts; iterate over its progress.

        As `refresh`, for any number of keys: at most `rate` entries a second, and cancelled by iterating no
        further. It also drops what nodes have of the parts of large objects. With `dry_run`, only count what would
        be dropped. Raises Overloaded if many such jobs are in progress.
        """
        return self._sweep(SweepJob("purge", prefix, self._bucket, rate, self._clock.now(), dry_run=dry_run))

    def invalidate(self, prefix: Key, *, rate: float | None = None, dry_run: bool = False) -> AsyncIterator[Swept]:
        """Have S3 confirm the nodes' entries of all keys that begin with `prefix` before they are served again.

        Otherwise as `purge`, `rate` and `dry_run` included. The entries stay: what S3 has unchanged is not
        transferred again, and they may be served if S3 fails.
        """
        return self._sweep(SweepJob("invalidate", prefix, self._bucket, rate, self._clock.now(), dry_run=dry_run))

    def pin(self, prefix: Key, *, rate: float | None = None, dry_run: bool = False) -> AsyncIterator[Swept]:
        """Keep the nodes' entries of all keys that begin with `prefix` from being evicted.

        Otherwise as `purge`, `rate` and `dry_run` included. It is about the entries that are there: what is read
        later is not pinned, nor what is written or dropped and read again, and a node that restarts has no pins. At
        most a quarter of each node's memory can be pinned, and 32,768 entries: beyond that FailedPrecondition is
        raised, also in a dry run, and what was pinned before stays so.
        """
        return self._sweep(SweepJob("pin", prefix, self._bucket, rate, self._clock.now(), dry_run=dry_run))

    def unpin(self, prefix: Key, *, rate: float | None = None, dry_run: bool = False) -> AsyncIterator[Swept]:
        """Let the entries of all keys that begin with `prefix` be evicted again, after `pin`.

        Otherwise as `purge`, `rate` and `dry_run` included.
        """
        return self._sweep(SweepJob("unpin", prefix, self._bucket, rate, self._clock.now(), dry_run=dry_run))

    async def _sweep(self, job: SweepJob) -> AsyncIterator[Swept]:
        try:
            done = False
            while not done:
                progress = await self._run(job.part())
                done = progress.done
                yield progress
                if pause := job.pause(progress, self._clock.now()):
                    await self._clock.sleep(pause)
        finally:
            # Also where it is cancelled: a node has room for few jobs. If this fails, it drops the job later.
            with suppress(MilenaError):
                await self._run(job.forget(), _END_SECONDS)

    def warm(self, prefix: Key, *, rate: float | None = None, dry_run: bool = False) -> AsyncIterator[Warmed]:
        """Have the nodes read all objects whose keys begin with `prefix` into memory; iterate over the progress.

        At most `rate` objects a second, and cancelled by iterating no further. No bytes of them come here. Nothing
        is evicted: it ends where the memory of the nodes is nine tenths full. With `dry_run`, only say what would
        be read, by the sizes in S3's listing. Raises as `scan` of `Milena`.
        """
        return self._warm(WarmJob(prefix, self._bucket, rate, self._clock.now(), dry_run=dry_run))

    async def _warm(self, job: WarmJob) -> AsyncIterator[Warmed]:
        while not job.progress.done:
            listing = job.listing()
            if listing is not None:
                job.listed(await self._run(listing))
                if job.progress.done:
                    yield job.progress
                continue
            pause = job.warmed(await self._run(job.part()), self._clock.now())
            yield job.progress
            if pause:
                await self._clock.sleep(pause)

    async def failed(self, limit: int = 1000) -> DeadLetters:
        """Return at most `limit` dead letters and stuck writes of all nodes and buckets.

        This, `flush`, `retry` and `drop` raise Unavailable if a node of the ring does not respond.
        """
        return await self._run(admin.list_dead_letters(limit))

    async def retry(self, keys: Iterable[Key] = (), *, all: bool = False) -> int:
        """Upload the failed writes of `keys`, or `all` of them, again at once; return how many there were.

        Call it when the cause, such as the bucket's policy, has been corrected. Raises InvalidRequest for both, or
        neither, of `keys` and `all`.
        """
        return await self._run(admin.resolve_dead_letters("retry", keys, all, self._bucket))

    async def drop(self, keys: Iterable[Key] = (), *, all: bool = False) -> int:
        """Delete the failed writes of `keys`, or `all` of them, permanently; return how many there were.

        Reads then return what S3 has. Raises InvalidRequest for both, or neither, of `keys` and `all`.
        """
        return await self._run(admin.resolve_dead_letters("drop", keys, all, self._bucket))

    async def close(self) -> None:
        """Close the connection."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
