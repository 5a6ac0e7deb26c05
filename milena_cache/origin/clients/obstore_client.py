"""Shell. `ObjectStore` over obstore, which is many times faster than boto3 and awaits natively.

It is not complete: it alters or rejects some keys (see `exact`), so those, and listings and bucket checks, use
boto3. Both get credentials from `milena_cache.origin.s3.credentials`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from cachetools import LRUCache
from obstore.exceptions import BaseError, UnauthenticatedError
from obstore.store import S3Store

from milena_cache.objects.object_store import (
    NO_METADATA,
    Absent,
    Fault,
    Info,
    OriginFailure,
    Ref,
    Stored,
    ignore,
    part_too_large,
    too_large,
)
from milena_cache.origin.clients.obstore_errors import UNUSED_PROXY, is_local, judge, unreadable
from milena_cache.origin.s3.attributes import sendable
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3.fetch_bytes import UNBOUNDED, fetch_bytes
from milena_cache.origin.s3.settings import S3Settings
from milena_common.api.byte_range import ByteRange
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import SMALL_BYTES

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions, PutMode
    from obstore.store import ClientConfig, S3Credential

# The number of buckets with open connections.
MAX_BUCKETS = 64
# Seconds that an idle connection is kept.
POOL_IDLE_SECONDS = 20.0
# The largest value that the configuration allows.
MAX_VALUE_BYTES = 2**30
# From this size on a part is returned as it was received. A smaller one may have come in one piece, a slice of the
# HTTP client's buffer of up to 408 KiB, and would keep all of that in memory.
MIN_BUFFER_BYTES = 2**19
# obstore requests new credentials so many seconds before the expiry time that it was given.
OBSTORE_AHEAD_SECONDS = 300.0

_ALTERED = re.compile(r"^/|/$|//|(^|/)\.\.?(/|$)|[\x00-\x1f\x7f]")


def exact(key: str) -> bool:
    """True if obstore reads and writes this key unaltered.

    It treats keys as paths: leading and trailing `/` are dropped, empty, `.` and `..` segments and control
    characters are rejected. Verified by trying every ASCII character and unusual spellings against a server.
    """
    return _ALTERED.search(key) is None


class Unreadable(Exception):
    """A response that obstore cannot parse or does not expose; see `obstore_errors.unreadable`."""


class ObstoreStore:
    """S3 through obstore: get, head, put.

    `pooled` False: each request has its own new connection. `budget` bounds the bytes of values being read; None:
    no bound, as in tools.
    """

    def __init__(
        self,
        credentials: Credentials,
        settings: S3Settings,
        *,
        pooled: bool = True,
        budget: ByteBudget | None = None,
    ) -> None:
        self._credentials = credentials
        self._generation = credentials.generation
        self._proxy = credentials.proxy.url()
        self._settings = settings
        self._pooled = pooled
        # By bucket, and by use: True for writes.
        self._stores: LRUCache[tuple[str, bool], S3Store] = LRUCache(2 * MAX_BUCKETS)
        # The last one of each use, with its bucket: a look into the cache takes a twentieth of an upload's time.
        self._latest: dict[bool, tuple[str, S3Store]] = {}
        self._budget = budget or ByteBudget(UNBOUNDED)
        self._regions: LRUCache[str, str] = LRUCache(MAX_BUCKETS)

    async def _provide(self) -> S3Credential:
        held = await self._credentials.obtain()
        # obstore requests new ones OBSTORE_AHEAD_SECONDS before this timestamp: at `renew_at`.
        must_head = None if held.renew_at is None else held.renew_at + OBSTORE_AHEAD_SECONDS
        return {
            "access_key_id": held.access_key,
            "secret_access_key": held.secret_key,
            "token": held.token or None,
            "expires_at": None if must_head is None else datetime.fromtimestamp(must_head, UTC),
        }

    def _store(self, bucket: str, *, writes: bool = False) -> S3Store:
        proxy = self._credentials.proxy.url()
        if self._generation != self._credentials.generation or self._proxy != proxy:
            self._generation, self._proxy = self._credentials.generation, proxy
            self.reconnect()  # they hold expired credentials, or another proxy
        latest = self._latest.get(writes)
        if latest is not None and latest[0] == bucket:
            return latest[1]
        store = self._stores.get((bucket, writes))
        if store is None:
            settings = self._settings
            options: ClientConfig = {
                # obstore never follows redirects from https to http.
                "allow_http": settings.endpoint_url.startswith("http://"),
                "connect_timeout": timedelta(seconds=settings.connect_timeout),
                # An upper bound for a request of any size; usually `timeout` of the settings ends it.
                "timeout": timedelta(seconds=settings.transfer_seconds(MAX_VALUE_BYTES)),
                # Well below the time after which firewalls and S3 itself drop an idle connection.
                "pool_idle_timeout": timedelta(seconds=POOL_IDLE_SECONDS),
            }
            if not writes:
                # Not for writes: it would end an upload that takes longer, although its bytes are being sent.
                options["read_timeout"] = timedelta(seconds=settings.timeout)
            if not self._pooled:
                options["pool_max_idle_per_host"] = "0"
            if settings.ca_bundle:
                options["root_certificate"] = Path(settings.ca_bundle).read_bytes()
            endpoint, virtual = settings.endpoint_of(bucket, self.region(bucket))
            # An explicit proxy keeps obstore from reading the environment. Excluding S3's host means no proxy for
            # it, and an unusable one for the target of a redirect.
            options["proxy_url"] = proxy or UNUSED_PROXY
            if not proxy:
                options["proxy_excludes"] = urlsplit(endpoint).hostname or ""
            # Everything that obstore would otherwise read from the environment.
            store = S3Store(
                bucket,
                region=self.region(bucket),
                endpoint=endpoint,
                aws_endpoint_url_s3=endpoint,
                virtual_hosted_style_request=virtual,
                skip_signature=False,
                conditional_put="etag",
                s3_express=False,
                unsigned_payload=False,
                disable_tagging=False,
                disable_bulk_delete=False,
                request_payer=False,
                credential_provider=self._provide,
                client_options=options,
                # One attempt: `origin` repeats, and counts each.
                retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=settings.timeout)},
            )
            self._stores[bucket, writes] = store
        self._latest[writes] = bucket, store
        return store

    def region(self, bucket: str) -> str:
        """Return the region for which requests about `bucket` are signed."""
        return self._regions.get(bucket, self._settings.region)

    def use_region(self, bucket: str, region: str) -> None:
        """Sign requests about `bucket` for `region` from now on; without an endpoint they also go there."""
        self._regions[bucket] = region
        for writes in (False, True):
            self._stores.pop((bucket, writes), None)
        self._latest.clear()

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
        """See `ObjectStore`; raises Unreadable for a response that obstore cannot parse."""
        options: GetOptions = {"if_none_match": if_none_match} if if_none_match else {}
        if if_match:
            options["if_match"] = if_match
        if byte_range is not None:
            options["range"] = (byte_range.offset, byte_range.offset + byte_range.length)
        try:
            response = await obstore.get_async(self._store(ref.bucket), ref.key, options=options)
            began()
            whole = size = response.meta["size"]
            if byte_range is not None:
                # obstore has compared the response's range with the requested one, cut at the end of the object.
                size = response.range[1] - response.range[0]
                if size > max_bytes:
                    raise part_too_large(ref, ByteRange(byte_range.offset, size), max_bytes)
            elif size > max_bytes:
                etag, metadata = response.meta["e_tag"] or "", _own(response.attributes)
                raise too_large(ref, size, max_bytes, etag, metadata)
            body: Bytes
            if size <= SMALL_BYTES:  # as `fetch_bytes` does, without its processor time: 14 µs of a read
                body = await response.bytes_async()
            else:
                async with fetch_bytes(self._budget, size, self._settings.timeout):
                    body = await response.bytes_async()
        except (BaseError, FileNotFoundError) as error:
            conditional, ranged = bool(if_none_match or if_match), byte_range is not None
            return _absent(_judge("get", ref, error, conditional=conditional, ranged=ranged))
        if len(body) != size:
            raise OriginFailure(Fault.INCOMPLETE, "get", ref, f"{len(body)} of {size} bytes", "incomplete")
        etag, metadata = response.meta["e_tag"] or "", _own(response.attributes)
        if byte_range is None:
            return Stored(body.to_bytes(), etag, metadata)
        if size < MIN_BUFFER_BYTES:
            return Stored(body.to_bytes(), etag, metadata, size=whole)
        return Stored(b"", etag, metadata, size=whole, buffer=memoryview(body))

    async def inquire(self, ref: Ref) -> str | Absent:
        """Return the object's ETag by a GET whose body is not read: its response has S3's error code.

        Raises OriginFailure, and Unreadable for a response that obstore cannot parse.
        """
        try:
            response = await obstore.get_async(self._store(ref.bucket), ref.key)
        except (BaseError, FileNotFoundError) as error:
            return _absent(_judge("get", ref, error))
        return response.meta["e_tag"] or ""

    async def head(self, ref: Ref) -> Info | None:
        """See `ObjectStore`; raises Unreadable for a response that obstore cannot parse."""
        try:
            # Not `obstore.head_async`, which omits the metadata.
            response = await obstore.get_async(self._store(ref.bucket), ref.key, options={"head": True})
        except (BaseError, FileNotFoundError) as error:
            _absent(_judge("head", ref, error))
            return None
        meta = response.meta
        modified = meta["last_modified"].timestamp()
        return Info(ref.key, meta["size"], meta["e_tag"] or "", modified, _own(response.attributes))

    async def put(
        self,
        ref: Ref,
        value: bytes,
        *,
        if_match: str = "",
        if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
    ) -> str:
        mode: PutMode = "create" if if_absent else {"e_tag": if_match} if if_match else "overwrite"
        try:
            # One request for any size: parts would result in another kind of ETag, and would cost more requests;
            # MAX_VALUE_BYTES is far below S3's limit for one PUT.
            # A cancelled request closes its connection, so that nothing of it is sent later.
            async with asyncio.timeout(self._settings.transfer_seconds(len(value))):
                result = await obstore.put_async(
                    self._store(ref.bucket, writes=True),
                    ref.key,
                    value,
                    attributes=sendable(metadata) or None,
                    mode=mode,
                    use_multipart=False,
                )
        except TimeoutError:
            raise _late("put", ref) from None
        except (BaseError, FileNotFoundError) as error:
            _absent(_judge("put", ref, error, conditional=if_absent or bool(if_match)))
            raise AssertionError("a put can fail its condition, but not be absent") from None
        return result["e_tag"] or ""

    def reconnect(self) -> None:
        """Use none of the idle connections any more; requests in flight keep theirs."""
        self._stores.clear()
        self._latest.clear()


def _late(operation: str, ref: Ref) -> OriginFailure:
    return OriginFailure(Fault.TIMEOUT, operation, ref, "no response in time", "timeout")


def _own(attributes: Mapping[str, str]) -> Mapping[str, str]:
    # The attributes also have standard headers, under names with capitals.
    return {name: value for name, value in attributes.items() if name == name.lower()}


def _absent(said: OriginFailure | Unreadable | Absent) -> Absent:
    """Return `said` if the object is absent; else raise it.

    No variable may hold the exception that a frame raises: it would be part of a reference cycle. Thousands of them
    make the garbage collector block the event loop for 100 ms.
    """
    if isinstance(said, Absent):
        return said
    try:
        raise said from None
    finally:
        del said


def _judge(
    operation: str, ref: Ref, error: Exception, *, conditional: bool = False, ranged: bool = False
) -> OriginFailure | Unreadable | Absent:
    if unreadable(error):
        return Unreadable(str(ref))
    if isinstance(error, UnauthenticatedError) and is_local(error):
        text = str(error).split("\n")[0][:300]
        return OriginFailure(Fault.ACCOUNT, operation, ref, "NoCredentials", "local", text)
    return judge(operation, ref, error, conditional=conditional, ranged=ranged)
