"""Coordination. S3 as one `ObjectStore`: obstore where it is exact, boto3 for the rest.

The responses of both clients are verified: a HEAD without an object is confirmed by a GET (`absence`), a value is
compared with its ETag (`s3.digest`), the region of a bucket is looked up once, and what obstore does not report
(the HTTP status of a read, encryption, headers) is read through boto3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from hashlib import md5
from typing import Any, NamedTuple, TypeVar

from milena_cache.objects.etags import same_etag
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
)
from milena_cache.origin.absence import Absence
from milena_cache.origin.clients.boto3_client import Boto3Store
from milena_cache.origin.clients.obstore_client import ObstoreStore, Unreadable, exact
from milena_cache.origin.s3.clock import S3Clock
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3.digest import Md5Etags, md5_named_by
from milena_cache.origin.s3.responses import REGION_LOOKUP_CODES
from milena_cache.origin.s3.settings import S3Settings
from milena_common.api.byte_range import ByteRange
from milena_common.api.uploads import PartsPage, UploadedPart, UploadsPage
from milena_common.limits.byte_budget import ByteBudget
from milena_common.runtime.clock import Clock

T = TypeVar("T")

# S3's error codes for expired temporary credentials.
EXPIRED = frozenset(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"))

log = logging.getLogger(__name__)

# The MD5 of a larger value (bytes) is computed on a thread, because hashlib would block the event loop.
LARGE_BYTES = 2**18
# After so many responses in a row that obstore cannot parse, boto3 reads this S3.
UNREADABLE_IN_A_ROW = 8
# Then one read in so many tries obstore again.
FAST_AGAIN = 256
# The seconds between two lookups of a bucket's region, after one that failed.
REGION_PAUSE_SECONDS = 10.0
# A response that is not S3's is logged once in so many seconds for each operation and code, of which at most so
# many are tracked.
LOG_SECONDS = 60.0
MAX_KINDS = 100
DAMAGED = "damaged value"
# The key of a nonexistent object, which the start check reads.
CHECK_KEY = ".milena-check/no-such-object"


class _Get(NamedTuple):
    """The arguments of a get, for either client."""

    if_none_match: str
    if_match: str
    byte_range: ByteRange | None
    max_bytes: int
    began: Callable[[], None]

    async def by(self, store: ObstoreStore | Boto3Store, ref: Ref) -> Stored | Absent:
        """Return the response to `store`."""
        return await store.get(
            ref,
            if_none_match=self.if_none_match,
            if_match=self.if_match,
            byte_range=self.byte_range,
            max_bytes=self.max_bytes,
            began=self.began,
        )


class S3:
    """S3 for every byte-exact key, through obstore wherever it keeps the key unaltered and supports the operation.

    `thorough` is the boto3 client, for operations that only it supports. `negative_ttl`: seconds for which a
    confirmed absence is cached. `on_request` is called with operation, code and seconds for each request in
    addition to the one that the caller made. `budget` bounds the bytes of values being read. `s3_clock` is set by
    the responses to boto3.
    """

    def __init__(
        self,
        credentials: Credentials,
        settings: S3Settings,
        clock: Clock,
        negative_ttl: float,
        *,
        pooled: bool = True,
        budget: ByteBudget | None = None,
        s3_clock: S3Clock | None = None,
    ) -> None:
        self.on_request: Callable[[str, str, float], None] = lambda operation, code, seconds: None
        self._credentials = credentials
        self._another = partial(S3, credentials, settings, clock, budget=budget, s3_clock=s3_clock)
        self._fast = ObstoreStore(credentials, settings, pooled=pooled, budget=budget)
        self.thorough = Boto3Store(credentials, settings, pooled=pooled, budget=budget, clock=s3_clock)
        self._clock = clock
        self._absence = Absence(clock, negative_ttl)
        self._etags = Md5Etags()
        self._logged_at: dict[tuple[str, str], float] = {}
        self._unreadable = 0
        self._region_requested: dict[str, float] = {}

    def unpooled(self) -> S3:
        """Return the same S3 on new connections: each request opens its own.

        Both share their knowledge of objects and ETags. Otherwise the second could use a cached absence that a
        write by the first has ended.
        """
        other = self._another(0, pooled=False)
        other._absence, other._etags, other._logged_at = self._absence, self._etags, self._logged_at
        return other

    # ---- reading

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
        got: Stored | Absent | None = None
        request = _Get(if_none_match, if_match, byte_range, max_bytes, began)
        if self._reads_fast(ref):
            got = await self._noticed(self._fast_read("get", ref, lambda: self._fast_get(ref, request)))
        if got is None:

            async def read() -> Stored | Absent:
                return await request.by(self.thorough, ref)

            got = await self._noticed(self._in_its_region(ref, read))
            if isinstance(got, Stored) and not await self._is_whole(ref, got):
                raise self._damaged(ref, got)
        # Some stores accept the condition and ignore it.
        if if_match and isinstance(got, Stored) and not same_etag(got.etag, if_match):
            text = f"the object's ETag is {got.etag or 'not reported'}, not {if_match}"
            raise OriginFailure(Fault.CHANGED, "get", ref, "another version", "200", text)
        return got

    def _reads_fast(self, ref: Ref) -> bool:
        if self._unreadable >= UNREADABLE_IN_A_ROW:
            self._unreadable += 1
            if self._unreadable % FAST_AGAIN:
                return False
        return exact(ref.key)

    async def _fast_get(self, ref: Ref, request: _Get) -> Stored | Absent:
        got = await request.by(self._fast, ref)
        if isinstance(got, Absent):
            return got
        # Without an ETag it may be any 2xx response of a gateway.
        if not got.etag:
            raise Unreadable(str(ref))
        if await self._is_whole(ref, got):
            return got
        # Damaged in transit, or encrypted with a key: boto3 exposes the headers that distinguish these.
        again = await self._counted("get", request._replace(if_none_match="").by(self.thorough, ref))
        if isinstance(again, Stored) and not await self._is_whole(ref, again):
            raise self._damaged(ref, again)
        return again

    async def _fast_read(self, operation: str, ref: Ref, read: Callable[[], Awaitable[T]]) -> T | None:
        """Return the result of obstore; None if boto3 must read."""
        started = self._clock.now()
        try:
            found = await self._in_its_region(ref, read)
        except Unreadable:
            self._unreadable += 1
            if self._unreadable == UNREADABLE_IN_A_ROW:
                log.warning("the fast client cannot parse this S3's responses: reading through the other one")
            self.on_request(operation, "200", self._clock.now() - started)
            return None
        self._unreadable = 0
        return found

    async def _is_whole(self, ref: Ref, got: Stored) -> bool:
        """Return False if the value is known to differ from its ETag, which is that of the whole object."""
        bucket, value = ref.bucket, got.content
        if got.size is not None and got.size != len(value):
            return True
        if got.opaque_etag:
            self._etags.is_opaque(got.etag)
            return True
        if not value or not self._etags.worth_a_look(bucket, got.etag):
            return True
        digest = _md5(value) if len(value) < LARGE_BYTES else await asyncio.to_thread(_md5, value)
        if digest == md5_named_by(got.etag):
            self._etags.agreed(bucket)
            return True
        self._etags.differed(bucket, got.etag)
        return not self._etags.trusted(bucket)

    def _damaged(self, ref: Ref, got: Stored) -> OriginFailure:
        text = f"{len(got.content)} bytes came whose MD5 is not the ETag {got.etag}"
        return self._logged(OriginFailure(Fault.INCOMPLETE, "get", ref, DAMAGED, "incomplete", text))

    async def head(self, ref: Ref) -> Info | None:
        return await self._head(ref, fast=self._reads_fast(ref))

    async def describe(self, ref: Ref) -> Info | None:
        return await self._head(ref, fast=False)

    async def _head(self, ref: Ref, *, fast: bool) -> Info | None:
        try:
            if fast:
                found = await self._fast_read("head", ref, lambda: self._fast_head(ref))
                if found is not None:
                    return found
            return await self._in_its_region(ref, lambda: self.thorough.head_alone(ref))
        except OriginFailure as failure:
            if not failure.says_nothing:
                raise self._logged(failure) from None
            return await self._confirm(ref, failure)

    async def _fast_head(self, ref: Ref) -> Info:
        found = await self._fast.head(ref)
        if found is None or not found.etag:
            raise Unreadable(str(ref))
        return found

    async def _confirm(self, ref: Ref, silent: OriginFailure) -> Info | None:
        """Confirm by a GET the response to a HEAD without an object, which cannot have an error code."""
        try:
            return await self._absence.confirm(ref, self._inquire)
        except OriginFailure as failure:
            if failure.fault is Fault.DENIED:
                # Reading is denied, which does not imply that writing the same object is.
                raise OriginFailure(Fault.DENIED, "head", ref, silent.code, silent.status, failure.code) from None
            raise self._logged(failure) from None

    async def _inquire(self, ref: Ref) -> Info | None:
        # boto3 costs 4 times the processor time, and a command may confirm thousands. It describes what is there.
        fast = self._reads_fast(ref)
        if fast and await self._fast_read("get", ref, lambda: self._fast_inquire(ref)) is Absent.MISSING:
            return None
        return await self._in_its_region(ref, lambda: self._counted("get", self.thorough.inquire(ref)))

    async def _fast_inquire(self, ref: Ref) -> str | Absent:
        return await self._counted("get", self._fast.inquire(ref))

    async def list(
        self, bucket: str, prefix: str, cursor: str, limit: int, delimiter: str = "", after: str = ""
    ) -> Page:
        ref = Ref(bucket, prefix)
        return await self._noticed(
            self._in_its_region(ref, lambda: self.thorough.list(bucket, prefix, cursor, limit, delimiter, after))
        )

    # ---- writing

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
        async def send() -> str:
            if exact(ref.key) and not attributes:
                try:
                    etag = await self._fast.put(
                        ref, value, if_match=if_match, if_absent=if_absent, metadata=metadata
                    )
                except Unreadable:
                    pass  # S3 has redirected the request, and not done it; boto3 exposes the target
                else:
                    await self._verify_put(ref, value, etag)
                    return etag
            return await self.thorough.put(
                ref, value, if_match=if_match, if_absent=if_absent, metadata=metadata, attributes=attributes
            )

        self._absence.clear_known(ref)
        try:
            etag = await self._in_its_region(ref, send)
        except OriginFailure as failure:
            raise self._logged(failure) from None
        finally:
            self._absence.clear_known(ref)
        if value and len(value) < LARGE_BYTES and not self._etags.trusted(ref.bucket):
            self._learn(ref.bucket, value, etag)
        return etag

    async def _verify_put(self, ref: Ref, value: bytes, etag: str) -> None:
        """Raise OriginFailure if `etag`, which obstore returned for a put, is not that of a stored object.

        obstore follows a 303 to the same host by a GET, without the value, and takes the ETag of any page for S3's.
        boto3, which follows no redirects, sends a HEAD if the ETag is not the value's MD5. Where ETags are not
        MD5s, the two cannot be distinguished.
        """
        if not value or not self._etags.verifies_puts(ref.bucket):
            return
        digest = _md5(value) if len(value) < LARGE_BYTES else await asyncio.to_thread(_md5, value)
        if digest == md5_named_by(etag):
            self._etags.put_agreed(ref.bucket)
            return
        found = await self._counted("head", self.thorough.head_alone(ref))
        if found is None or found.etag != etag:
            text = f"the response has the ETag {etag or 'none'}, and the object has another one"
            raise OriginFailure(Fault.UNEXPECTED, "put", ref, "another's answer", "200", text)
        self._etags.put_differed(ref.bucket)

    def _learn(self, bucket: str, value: bytes, etag: str) -> None:
        if self._etags.worth_a_look(bucket, etag):
            if _md5(value) == md5_named_by(etag):
                self._etags.agreed(bucket)
            else:
                self._etags.differed(bucket, etag)

    async def copy(
        self, ref: Ref, *, if_match: str = "", metadata: Mapping[str, str], attributes: Mapping[str, Any]
    ) -> str:
        async def send() -> str:
            return await self.thorough.copy(ref, if_match=if_match, metadata=metadata, attributes=attributes)

        return await self._noticed(self._in_its_region(ref, send))

    # By boto3 alone: obstore has no requests for single parts, and no condition on the last one.

    async def create_multipart(
        self, ref: Ref, *, metadata: Mapping[str, str] = NO_METADATA, attributes: Mapping[str, Any] = NO_ATTRIBUTES
    ) -> str:
        def send() -> Awaitable[str]:
            return self.thorough.create_multipart(ref, metadata=metadata, attributes=attributes)

        return await self._noticed(self._in_its_region(ref, send))

    async def upload_part(self, ref: Ref, upload: str, number: int, value: bytes | bytearray) -> str:
        def send() -> Awaitable[str]:
            return self.thorough.upload_part(ref, upload, number, value)

        return await self._noticed(self._in_its_region(ref, send))

    async def stream_part(self, ref: Ref, upload: str, number: int, body: PartStream) -> str:
        first: list[OriginFailure] = []

        async def send() -> str:
            if first and body.started:
                raise first[0]  # in the right region, or with new credentials, there would be no body any more
            try:
                return await self.thorough.stream_part(ref, upload, number, body)
            except OriginFailure as failure:
                first.append(failure)
                raise

        try:
            return await self._noticed(self._in_its_region(ref, send))
        finally:
            first.clear()  # else they and these frames would be reference cycles, as in `obstore_client`

    async def copy_part(
        self, ref: Ref, upload: str, number: int, source: Ref, byte_range: ByteRange, *, if_match: str = ""
    ) -> UploadedPart:
        def send() -> Awaitable[UploadedPart]:
            return self.thorough.copy_part(ref, upload, number, source, byte_range, if_match=if_match)

        return await self._noticed(self._in_its_region(ref, send))

    async def list_parts(self, ref: Ref, upload: str, after: int, limit: int) -> PartsPage:
        def send() -> Awaitable[PartsPage]:
            return self.thorough.list_parts(ref, upload, after, limit)

        return await self._noticed(self._in_its_region(ref, send))

    async def list_uploads(
        self, bucket: str, prefix: str, delimiter: str, after: tuple[str, str], limit: int
    ) -> UploadsPage:
        def send() -> Awaitable[UploadsPage]:
            return self.thorough.list_uploads(bucket, prefix, delimiter, after, limit)

        return await self._noticed(self._in_its_region(Ref(bucket, prefix), send))

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
        def send() -> Awaitable[str]:
            return self.thorough.complete_multipart(
                ref, upload, etags, numbers=numbers, if_match=if_match, if_absent=if_absent
            )

        self._absence.clear_known(ref)
        try:
            return await self._noticed(self._in_its_region(ref, send))
        finally:
            self._absence.clear_known(ref)

    async def abort_multipart(self, ref: Ref, upload: str) -> None:
        await self._noticed(self._in_its_region(ref, lambda: self.thorough.abort_multipart(ref, upload)))

    async def delete(self, ref: Ref, *, if_match: str = "") -> None:
        # Not by obstore, which deletes with DeleteObjects and does not compare the keys in its response with the
        # key of the request: a store that trims keys deletes another object, and this one counts as deleted.
        await self._noticed(self._in_its_region(ref, lambda: self.thorough.delete(ref, if_match=if_match)))

    # ---- the bucket

    async def check_bucket(self, bucket: str) -> None:
        """Check the bucket by a request about it and a read by each of the two clients. Raises OriginFailure."""
        absent = Ref(bucket, CHECK_KEY)
        await self._in_its_region(absent, lambda: self.thorough.check_bucket(bucket))
        for store in (self._fast, self.thorough):
            await self._check_read(store, absent)

    async def _check_read(self, store: ObstoreStore | Boto3Store, absent: Ref) -> None:
        async def read() -> Stored | Absent:
            return await self._counted("get", store.get(absent, max_bytes=LARGE_BYTES))

        try:
            got = await self._in_its_region(absent, read)
        except Unreadable:
            return
        except OriginFailure as failure:
            # A policy may allow only some keys, and the response is S3's.
            if failure.fault is not Fault.DENIED:
                raise
            return
        if isinstance(got, Stored) and not got.etag:
            raise OriginFailure(Fault.UNEXPECTED, "get", absent, "a page in the place of an object", "200")

    async def _in_its_region(self, ref: Ref, send: Callable[[], Awaitable[T]]) -> T:
        """Send a request; once more if S3 reports that the bucket is in another region, which is cached.

        The second request is for the same bucket, in the region that S3 names, never at an address from a response.
        """
        used, generation = self._fast.region(ref.bucket), self._credentials.generation
        first: OriginFailure | None = None
        try:
            try:
                # Directly, since almost all succeed: each coroutine around this one costs 1 % of an upload.
                return await send()
            except OriginFailure as failure:
                first = failure
            try:
                return await self._send_authorized(send, first, generation)
            except OriginFailure as failure:
                if failure.code not in REGION_LOOKUP_CODES or not await self._learn_region(
                    ref.bucket, used, failure.region
                ):
                    raise
            generation = self._credentials.generation
            try:
                return await send()
            except OriginFailure as failure:
                first = failure
            return await self._send_authorized(send, first, generation)
        finally:
            first = None  # else it and this frame would be a reference cycle, as in `obstore_client`

    async def _send_authorized(
        self, send: Callable[[], Awaitable[T]], failure: OriginFailure, generation: int
    ) -> T:
        """Send once more with new credentials if `failure` means that those of `generation` have expired.

        S3 has done nothing then, so this is safe for writes too. Raises any other `failure`.
        """
        try:
            if failure.code not in EXPIRED or not await self._credentials.renew(generation):
                raise failure.redacted(self._credentials.redact) from None
        finally:
            del failure  # as above
        try:
            return await send()
        except OriginFailure as again:
            raise again.redacted(self._credentials.redact) from None

    async def _learn_region(self, bucket: str, used: str, region: str) -> bool:
        """Return True if later requests about the bucket are signed for another region than `used`."""
        if self._fast.region(bucket) != used:
            return True  # a concurrent request has learned it
        now = self._clock.now()
        if not region:
            if now - self._region_requested.get(bucket, -REGION_PAUSE_SECONDS) < REGION_PAUSE_SECONDS:
                return False
            if len(self._region_requested) >= 1024:
                self._region_requested.clear()
            self._region_requested[bucket] = now
            region = await self._counted("bucket", self.thorough.find_region(bucket))
        if not region or region == self._fast.region(bucket):
            return False
        log.warning("bucket %s is in the region %s, not %s (AWS_REGION): using that", bucket, region, used)
        self._fast.use_region(bucket, region)
        self.thorough.use_region(bucket, region)
        return True

    # ---- counts and logs

    async def _counted(self, operation: str, asking: Awaitable[T]) -> T:
        """Count a request that is in addition to the one which the caller counts."""
        started = self._clock.now()
        code = "cancelled"
        try:
            response = await asking
            code = "404" if response is None or response is Absent.MISSING else "200"
            return response
        except OriginFailure as failure:
            code = failure.status
            raise
        finally:
            self.on_request(operation, code, self._clock.now() - started)

    async def _noticed(self, asking: Awaitable[T]) -> T:
        try:
            return await asking
        except OriginFailure as failure:
            raise self._logged(failure) from None

    def _logged(self, failure: OriginFailure) -> OriginFailure:
        """Log a response that is not S3's, once in `LOG_SECONDS` for each kind."""
        if failure.fault is Fault.UNEXPECTED or failure.code == DAMAGED:
            kind, now = (failure.operation, failure.code), self._clock.now()
            if now - self._logged_at.get(kind, -LOG_SECONDS) >= LOG_SECONDS:
                if len(self._logged_at) >= MAX_KINDS:
                    self._logged_at.clear()
                self._logged_at[kind] = now
                log.warning("not a response of S3, retried: %s (logged once a minute)", failure)
        return failure

    def reconnect(self) -> None:
        self._fast.reconnect()
        self.thorough.reconnect()

    async def close(self) -> None:
        await self.thorough.close()


def _md5(value: bytes | memoryview) -> str:
    return md5(value, usedforsecurity=False).hexdigest()
