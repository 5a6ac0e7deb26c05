# Made from milena_client/aio/client.py by scripts/sync-client: change that file, and run the script.
"""Coordination. The client for threads: names operations, and runs them through a `Caller`.

A read whose owner is known takes the fast path, directly to the node; all other calls, and reads that the fast path
does not finish, go through the caller. A write drops its key from the near cache also when it fails, since it may
have been made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from milena_client.core import operations
from milena_client.core.batch import FirstAttempts
from milena_client.core.calls import Retries, failed_attempt
from milena_client.core.files.block_read import NOTHING, Opened, block_read, pieces_of
from milena_client.core.files.upload_steps import UploadStep
from milena_client.core.limits import DEFAULT_TIMEOUT, FLUSH_TIMEOUT
from milena_client.core.near_cache import NearCache
from milena_client.core.options import CLIENT, Options, reduced
from milena_client.core.retry import DEFAULT_RETRY, RetryPolicy
from milena_client.core.url import DEFAULT_ADDRESS, Target, as_target, from_environment, parse_url
from milena_client.core.values import (
    CommonPrefix,
    Entry,
    Flushed,
    Key,
    KeyT,
    ObjectInfo,
    Stat,
    Value,
    Written,
    checked_bucket,
    encode_value,
    key_list,
)
from milena_client.sync.batch import run_batch
from milena_client.sync.caller import Caller
from milena_client.sync.direct import DirectTransport
from milena_client.sync.files import ObjectFile
from milena_client.sync.items import ItemAccess
from milena_client.sync.object_writer import ObjectWriter
from milena_common.api.byte_range import MAX_PART_BYTES, ByteRange, checked_range
from milena_common.api.credentials import Credentials
from milena_common.api.durability import Durability
from milena_common.api.errors import BatchError, ConditionFailed, FailedPrecondition, InvalidRequest, NodeLost
from milena_common.api.keys import MAX_VALUE_BYTES
from milena_common.resp.client_commands import NOT_SENT
from milena_common.rpc.failover import router_transport
from milena_common.rpc.transport import Transport
from milena_common.runtime.blocking_clock import BlockingClock, BlockingSystemClock
from milena_common.tls.certificates import Certificates
from milena_common.tls.settings import TlsFiles

D = TypeVar("D")


class Milena(ItemAccess):
    """A client of a Milena cluster. Thread-safe; a process needs one.

    - `address`: where the router is, "host:port" or "host" (port 50050), several routers of one ring separated by
      commas, or a URL as for `from_url`. The arguments below take precedence over the URL.
    - `bucket`: the name of the bucket; "" is the URL's, or else the one that the nodes serve by default.
    - `timeout`: how many seconds a call has in all, retries included; None: the URL's, or else 10. Every method
      takes one of its own.
    - `retry`: how failed calls are tried again.
    - `direct`: True: calls go straight to the node that owns the key if the ring is known and the node can be
      reached, and else through the router. False: always through the router. None: the URL's, or else True.
    - `near_cache`: keeps values in this process. What is read straight from a node, without a `timeout` of its own,
      goes into it.
    - `transport`, `clock`: replace network and time in tests.
    - `note`: a text that is added to the error when the router cannot be reached.
    - `tls`: encrypts all connections, and has the files of certificates, which may be replaced while the client is
      used; None: the URL's, or else they are plain.
    - `credentials`: user name and password, or a token, for logging in; None: the URL's, or without a login.

    Nothing is connected before the first call. Raises InvalidRequest for an invalid address, bucket or
    timeout, ConfigError for an invalid URL, or files of certificates that cannot be used.

    Keys are str or bytes, values bytes. All methods raise MilenaError: InvalidRequest for a request that can never
    succeed, Unavailable and DeadlineExceeded for one that may succeed later, RateLimited, Overloaded, AccessDenied.
    A `timeout` of None is the client's. The attributes `address` and `options` are the constructor's arguments.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        bucket: str = "",
        timeout: float | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
        direct: bool | None = None,
        near_cache: NearCache | None = None,
        transport: Transport | None = None,
        clock: BlockingClock | None = None,
        note: str = "",
        tls: TlsFiles | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        target = as_target(address)
        credentials = credentials or target.credentials
        address = self.address = target.address
        bucket = self._bucket = checked_bucket(bucket or target.bucket)
        timeout = target.seconds(timeout, DEFAULT_TIMEOUT)
        direct = target.direct if direct is None else direct
        replaced = transport is not None or clock is not None
        tls = tls or target.tls
        self.options = Options(
            bucket, timeout, retry, direct, near_cache, note, replaced, tls, credentials=credentials
        )
        retries = self._retries = Retries(timeout, retry)
        clock = clock or BlockingSystemClock()
        if near_cache is not None:
            if transport is not None or not direct:
                raise InvalidRequest("near_cache: needs direct access to the nodes, which notify it of changes")
            near_cache.claim()
        if transport is None:
            certificates = None if tls is None else Certificates(tls)
            transport = router_transport(address, note, certificates, credentials=lambda: credentials)
            if direct:
                transport = DirectTransport(
                    transport, bucket, timeout, clock, retries.rng, near_cache, certificates, credentials, address
                )
        self._transport = transport
        self._direct = transport if isinstance(transport, DirectTransport) else None
        self._near = near_cache
        self._now = clock.now
        self._caller = Caller(self._transport, retries, clock)
        self._run = self._caller.run

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        timeout: float | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
        near_cache: NearCache | None = None,
    ) -> Self:
        """Return the client that `url` describes: ``milena://host:50050/bucket?timeout=1s&direct=true``.

        All parts but the host may be left out. `timeout`, in seconds, takes precedence over the URL's; `retry` and
        `near_cache` are those of the constructor. Raises ConfigError, naming the part, for an invalid URL.
        """
        return cls._from_target(parse_url(url), timeout, retry, near_cache)

    @classmethod
    def from_env(
        cls,
        *,
        timeout: float | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
        near_cache: NearCache | None = None,
    ) -> Self:
        """Return the client that the variable MILENA_URL describes; without it milena://127.0.0.1:50050.

        `timeout`, in seconds, takes precedence over the URL's; `retry` and `near_cache` are those of the
        constructor. Raises ConfigError for an invalid URL.
        """
        return cls._from_target(from_environment(os.environ), timeout, retry, near_cache)

    @classmethod
    def _from_target(
        cls, target: Target, timeout: float | None, retry: RetryPolicy, near_cache: NearCache | None
    ) -> Self:
        return cls(
            target.address,
            bucket=target.bucket,
            timeout=target.seconds(timeout, DEFAULT_TIMEOUT),
            retry=retry,
            direct=target.direct,
            near_cache=near_cache,
            note=target.note,
            tls=target.tls,
            credentials=target.credentials,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self, self.address, self.options, CLIENT)

    @overload
    def get(self, key: Key, *, timeout: float | None = None) -> bytes | None: ...
    @overload
    def get(self, key: Key, default: D, *, timeout: float | None = None) -> bytes | D: ...
    def get(self, key: Key, default: D | None = None, *, timeout: float | None = None) -> bytes | D | None:
        """Return the value of `key`, or `default` if there is no such object."""
        near = self._near
        if near is not None:
            kept = near.get(key)
            if kept is not None:
                return kept
        first = None
        direct = self._direct
        # The fast path prepares no retries: after a failure the general path continues from its result.
        if direct is not None and timeout is None and not self._retries.queue.queued:
            began = self._now()
            mark = None if near is None else near.begin_read(key)
            found: Any = NOT_SENT
            try:
                reply = direct.request_value(key)
                if reply is not NOT_SENT:
                    found = reply
            finally:
                if near is not None:
                    near.end_read(key, mark, found)
            if type(found) is bytes:
                return found
            if found is None:
                return default
            # NodeLost may only mean that the connection had ended before the GET was sent, which is no evidence
            # that the node is lost. So it is not counted as an attempt, and the general path makes the first one at
            # once.
            first = None if isinstance(found, NodeLost) else failed_attempt(began, found)
        value = self._run(operations.get(key, self._bucket), timeout, first)
        if near is not None:
            near.observed(key, value)
        return default if value is None else value

    def get_entry(self, key: Key, *, timeout: float | None = None) -> Entry | None:
        """Return the value of `key` with its ETag, age, outcome and node; None if there is no such object."""
        entry = self._run(operations.get_entry(key, self._bucket), timeout)
        if self._near is not None:
            self._near.observed(key, None if entry is None else entry.value)
        return entry

    def get_range(
        self,
        key: Key,
        offset: int,
        length: int | None = None,
        *,
        if_match: str | None = None,
        timeout: float | None = None,
    ) -> Entry | None:
        """Return `length` bytes of the value of `key` from `offset` on; None if there is no such object.

        - `offset`: of the first byte, from 0 on; a negative one counts from the end, -100 being the last 100 bytes.
        - `length`: at most so many bytes, fewer at the end of the object; None: all up to the end.
        - `if_match`: read only the object with this ETag, quotes included, such as that of an earlier part: else
          ConditionFailed is raised, so that parts of two versions are never put together.

        The entry's `size` is that of the whole value, which may be over MAX_VALUE_BYTES. Of a large object the
        nodes keep the blocks that were read, and more than 4 MiB of it are read by several requests, each within
        `timeout` seconds: ConditionFailed is raised if it is replaced meanwhile. The near cache is not used. Raises
        RangeNotSatisfiable if the object has none of these bytes, FailedPrecondition if they are more than
        MAX_VALUE_BYTES: `open` reads any number.
        """
        part = checked_range(offset, length)
        try:
            return self._run(operations.get_range(key, offset, length, self._bucket, if_match), timeout)
        except ConditionFailed:
            raise
        except FailedPrecondition as error:
            if 0 < part.length <= MAX_PART_BYTES:
                raise
            rejected = error
        first = self._run(operations.get_range(key, offset, MAX_PART_BYTES, self._bucket, if_match), timeout)
        if first is None:
            return None
        start, size = part.within(first.size)
        got = len(first.value)
        if got == size:
            return first
        if size > self._max_value_bytes:
            raise rejected
        if not first.etag:
            raise operations.without_etag(key)
        file = self._file(key, operations.stat_of(first), timeout)
        file.seek(start + got)
        return replace(first, value=first.value + file.read(size - got))

    def get_ranges(
        self, key: Key, ranges: Iterable[tuple[int, int]], *, timeout: float | None = None
    ) -> list[bytes] | None:
        """Return the bytes of several `ranges` of one version of the value of `key`, in their order.

        A range is offset and length, as those of `get_range`. The first one is read alone, and the others together.
        None if there is no such object. Each range has `timeout` seconds. Raises as `get_range` does, for the first
        range that failed, and ConditionFailed if the object was replaced meanwhile.
        """
        requested = [checked_range(*each) for each in ranges]
        if not requested:
            return [] if self.stat(key, timeout=timeout) is not None else None
        first = self.get_range(key, *requested[0], timeout=timeout)
        if first is None:
            return None
        etag = first.etag or None
        if etag is None and len(requested) > 1:
            raise operations.without_etag(key)
        opened = operations.opened(first, self._now())
        pieces = [
            list(pieces_of(each.within(first.size), opened.group_bytes, self._max_value_bytes))
            for each in requested[1:]
        ]
        numbered = {str(number): piece for number, piece in enumerate(chain.from_iterable(pieces))}

        def build(number: str) -> operations.Operation[Entry | None]:
            piece = numbered[number]
            blocks = block_read(opened, piece, NOTHING, self._now())
            return operations.get_range(key, *piece, self._bucket, etag, blocks)

        try:
            entries = run_batch(self._caller, list(numbered), build, timeout)
        except BatchError as error:
            raise next(iter(error.errors.values())) from None
        values = (operations.part_of(key, entries[number], numbered[number], first.etag) for number in numbered)
        return [first.value, *(b"".join(islice(values, len(each))) for each in pieces)]

    def stat(self, key: Key, *, timeout: float | None = None) -> Stat | None:
        """Return size, ETag, age and expiry of the object `key`; None if there is none. Its value is not read."""
        return self._run(operations.stat(key, self._bucket), timeout)

    @overload
    def open(self, key: Key, mode: Literal["rb"] = "rb", *, timeout: float | None = None) -> ObjectFile: ...
    @overload
    def open(
        self,
        key: Key,
        mode: Literal["wb", "xb"],
        *,
        durability: Durability | None = None,
        timeout: float | None = None,
    ) -> ObjectWriter: ...
    def open(
        self, key: Key, mode: str = "rb", *, durability: Durability | None = None, timeout: float | None = None
    ) -> ObjectFile | ObjectWriter:
        """Return the object `key`, of any size, as a file; each request of it has `timeout` seconds.

        - `mode`: "rb": read it; "wb": write it, over any object that there is; "xb": write it if there is none.
        - `durability`: that of `set`, for an object of up to 8 MiB. A larger one is in S3 when `close` returns.

        All that is read is of the version that there is now: ConditionFailed is raised when bytes are missing and
        the object was replaced. Sequential reads request up to 2 MiB ahead, others what they read. Raises
        KeyNotFound if there is no such object, FailedPrecondition for an object without an ETag.

        What is written is visible when the file is closed, and not at all after an error. Raises ConditionFailed if
        there is an object with mode "xb"; so does `close`, if there is one by then.

        Raises InvalidRequest for another `mode`: an object cannot be changed in place, nor be appended to.
        """
        if mode in ("wb", "xb"):
            return self._open_to_write(key, mode == "xb", durability, timeout)
        if mode != "rb":
            raise InvalidRequest(operations.wrong_mode(mode))
        if durability is not None:
            raise InvalidRequest("durability: allowed for modes 'wb' and 'xb'")
        stat = self.stat(key, timeout=timeout)
        if stat is None:
            raise operations.not_found(key)
        if not stat.etag:
            raise operations.without_etag(key)
        return self._file(key, stat, timeout)

    def _file(self, key: Key, stat: Stat, timeout: float | None) -> ObjectFile:
        """Return the file of the version that was described just now."""
        opened = operations.opened(stat, self._now())

        def read_range(part: ByteRange, ahead: ByteRange) -> bytes:
            return self._read_opened(key, opened, part, ahead, timeout=timeout)

        return ObjectFile(read_range, stat, self._max_value_bytes)

    def _read_opened(
        self, key: Key, opened: Opened, part: ByteRange, ahead: ByteRange = NOTHING, *, timeout: float | None = None
    ) -> bytes:
        """Return the bytes of `part` of the version that was opened, as file objects do.

        `ahead`: what will be read next. Raises ConditionFailed if they are missing, since it was replaced.
        """
        blocks = block_read(opened, part, ahead, self._now())
        operation = operations.get_range(key, *part, self._bucket, opened.etag, blocks)
        return operations.part_of(key, self._run(operation, timeout), part, opened.etag)

    def _open_to_write(
        self, key: Key, exclusive: bool, durability: Durability | None, timeout: float | None
    ) -> ObjectWriter:
        if_none_match = "*" if exclusive else None
        # Checks the arguments before anything is written.
        operations.put(key, b"", self._bucket, durability, None, if_none_match)
        if exclusive and self.exists(key, timeout=timeout):
            raise operations.already_there(key)

        def send(step: UploadStep) -> Written:
            if step.complete and not step.offset:
                return self.set(
                    key, step.value, durability=durability, if_none_match=if_none_match, timeout=timeout
                )
            try:
                return self._run(operations.upload(key, self._bucket, step, durability, if_none_match), timeout)
            finally:
                if step.complete:
                    self._wrote((key,))

        return ObjectWriter(send, self._max_value_bytes)

    def set(
        self,
        key: Key,
        value: Value,
        *,
        durability: Durability | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Write `value` to `key`, and return its ETag, the node that wrote it and the durability that was reached.

        - `durability`: return when the node's journal has it on disk ("back"), when S3 has it ("through"), or at
          once ("memory": lost if the node dies before S3 has it). None: the nodes' WRITE_MODE.
        - `if_match`: write only over the object with this ETag, quotes included; `if_none_match`: "*": write only
          where there is no object. Otherwise nothing is written, and ConditionFailed is raised.
        - `ttl`: after so many seconds the object does not exist any more, for any reader; a read that finds it
          removes it from S3. None: it stays.

        After DeadlineExceeded or Unavailable it may or may not have been written. Raises TypeError for a value that
        is not bytes, InvalidRequest for an invalid key, `ttl` or condition.
        """
        operation = operations.put(
            key, value, self._bucket, durability, if_match, if_none_match, ttl, self._max_value_bytes
        )
        try:
            return self._run(operation, timeout)
        finally:
            self._wrote((key,))

    def copy(
        self,
        source: Key,
        target: Key,
        *,
        durability: Durability | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        source_bucket: str | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Copy the object `source` to the key `target`, without its bytes passing through this process.

        - `durability`, `if_match`, `if_none_match`: those of `set`, for `target`. An object of more than 8 MiB is
          copied by S3, after it has got the newest write of `source`, and is in S3 when `copy` returns: give it a
          `timeout`.
        - `source_bucket`: that of `source`; None: the client's own.

        What S3 keeps with the object, as its content type, is copied too; an expiry is not. Raises KeyNotFound if
        there is no `source`, InvalidRequest if it is `target`, and as `set` does.
        """
        source_bucket = self._bucket if source_bucket is None else source_bucket
        operation = operations.copy(
            source, source_bucket, target, self._bucket, durability, if_match, if_none_match
        )
        try:
            return self._run(operation, timeout)
        finally:
            self._wrote((target,))

    def delete(
        self,
        key: Key,
        *,
        durability: Durability | None = None,
        if_match: str | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Delete `key`, in S3 too. `durability` and `if_match` are those of `set`; the ETag that is returned is "".

        A key that does not exist is no error, unless `if_match` is given: then it is ConditionFailed.
        """
        try:
            return self._run(operations.delete(key, self._bucket, durability, if_match), timeout)
        finally:
            self._wrote((key,))

    @property
    def _max_value_bytes(self) -> int:
        return self._direct.max_value_bytes if self._direct is not None else MAX_VALUE_BYTES

    def _wrote(self, keys: Iterable[Key]) -> None:
        """Drop `keys` from the near cache: they were written, or may have been."""
        if self._near is not None:
            self._near.drop_keys(keys)

    def exists(self, key: Key, *, timeout: float | None = None) -> bool:
        """Return True if there is an object `key`. Its value is not transferred."""
        return self._run(operations.exists(key, self._bucket), timeout)

    def get_many(self, keys: Iterable[KeyT], *, timeout: float | None = None) -> dict[KeyT, bytes]:
        """Return the values of those `keys` that exist, by the keys as they were given.

        Each key has `timeout` seconds for itself. None: all are requested at once, and what has not arrived within
        the client's timeout is requested key by key, with as much time again. Raises BatchError if some failed; it
        has the results of the others.
        """
        distinct = key_list(keys)
        first: FirstAttempts[KeyT, Any] = FirstAttempts()
        direct = self._direct
        near = self._near
        kept: dict[KeyT, bytes] = {}
        if near is not None:
            kept = near.get_many(distinct)
            distinct = [key for key in distinct if key not in kept]
        if distinct and direct is not None and timeout is None and not self._retries.queue.queued:
            began = self._now()
            marks = [] if near is None else near.begin_reads(distinct)
            found: list[Any] = [NOT_SENT] * len(distinct)
            try:
                found = direct.request_values(distinct)
            finally:
                if near is not None:
                    near.end_reads(distinct, marks, found)
            distinct = first.add(distinct, found, began)
        first.results.update(kept)
        if distinct:
            run_batch(self._caller, distinct, lambda key: operations.get(key, self._bucket), timeout, first)
        values = first.results
        if near is not None:
            for key in distinct:
                near.observed(key, values[key])
        if first.all_exist:
            return values
        return {key: value for key, value in values.items() if value is not None}

    def set_many(
        self,
        values: Mapping[KeyT, Value],
        *,
        durability: Durability | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> dict[KeyT, Written]:
        """Write all of `values`, a mapping from keys to values, in no particular order and not all or nothing.

        `durability` and `ttl` are those of `set`, for each of them. Each key has `timeout` seconds for itself.
        Raises BatchError if some failed; the others were written.
        """
        for value in values.values():
            encode_value(value, self._max_value_bytes)
        try:
            return run_batch(
                self._caller,
                key_list(values),
                lambda key: operations.put(
                    key, values[key], self._bucket, durability, ttl=ttl, max_value_bytes=self._max_value_bytes
                ),
                timeout,
            )
        finally:
            self._wrote(values)

    def delete_many(
        self, keys: Iterable[KeyT], *, durability: Durability | None = None, timeout: float | None = None
    ) -> None:
        """Delete all `keys`, in S3 too, each within `timeout` seconds; `durability` is that of `set`.

        Raises BatchError if some failed; the others were deleted.
        """
        distinct = key_list(keys)
        try:
            run_batch(self._caller, distinct, lambda key: operations.delete(key, self._bucket, durability), timeout)
        finally:
            self._wrote(distinct)

    def flush(self, *, timeout: float = FLUSH_TIMEOUT) -> Flushed:
        """Wait until S3 has every write that the nodes have acknowledged so far, for at most `timeout` seconds.

        Return how many writes reached S3, remain, and were permanently rejected by S3: of all clients and in all
        buckets. Writes that remain after `timeout` raise no error. Raises Unavailable if a node of the ring does
        not respond. Nodes that have left the ring are not included: the writes in their journals reach S3 when they
        are back.
        """
        return self._run(operations.flush(), timeout)

    def wait_durable(self, *keys: Key, timeout: float = FLUSH_TIMEOUT) -> None:
        """Wait until S3 has the newest acknowledged writes of `keys`, for at most `timeout` seconds.

        Raises DeadlineExceeded if some are not there in time, FailedPrecondition if S3 rejected one
        permanently, Unavailable if a node of the ring does not respond, TypeError without keys.
        """
        self._run(operations.wait_durable(keys, self._bucket, timeout), timeout)

    def scan(self, prefix: Key = "", *, timeout: float | None = None) -> Iterator[ObjectInfo]:
        """Iterate over the objects whose keys begin with `prefix`, in the order of their keys, as S3 lists them.

        A write that S3 does not have yet may be missing: the node that lists adds its own ones only, and `flush`
        waits for all. Objects come a page at a time, and `timeout` seconds are for one page. Raises InvalidRequest
        for a prefix that is no UTF-8.
        """
        cursor = ""
        while True:
            page = self._run(operations.scan(prefix, self._bucket, cursor), timeout)
            for item in page.objects:
                yield item
            cursor = page.cursor
            if not cursor:
                return

    def scan_level(
        self, prefix: Key = "", delimiter: Key = "/", *, timeout: float | None = None
    ) -> Iterator[ObjectInfo | CommonPrefix]:
        """Iterate over one level of the keys that begin with `prefix`, as over a folder, in the order of names.

        Keys that have `delimiter` behind the prefix are not listed one by one: a `CommonPrefix` is listed in place
        of all that begin with it, possibly until shortly after its last key was deleted. Otherwise as `scan`.
        """
        cursor = ""
        while True:
            page = self._run(operations.scan_level(prefix, delimiter, self._bucket, cursor), timeout)
            for item in page.names():
                yield item
            cursor = page.cursor
            if not cursor:
                return

    def close(self) -> None:
        """Close all connections. Calls in progress and later ones raise FailedPrecondition."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
