"""Pure. Each operation as a value: the request to send, how to read its response, and whether it may be repeated.

The sync and the async client, single calls and batches all run these; nothing about a request or a response is
written twice. Arguments are checked when the operation is made, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from milena_client.core.files.block_read import BlockRead, Opened
from milena_client.core.files.upload_steps import UploadStep
from milena_client.core.values import (
    CommonPrefix,
    Entry,
    Flushed,
    Key,
    ObjectInfo,
    Stat,
    Value,
    Written,
    encode_delimiter,
    encode_key,
    encode_prefix,
    encode_ttl,
    encode_value,
)
from milena_common.api.byte_range import ByteRange, checked_range
from milena_common.api.durability import Durability, check_condition, check_durability
from milena_common.api.errors import (
    ConditionFailed,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    KeyNotFound,
)
from milena_common.api.keys import MAX_VALUE_BYTES
from milena_common.api.methods import COPY, DELETE, FLUSH, GET, LIST, PUT, UPLOAD
from milena_common.api.pb import router_server_pb2 as pb

A = TypeVar("A")


@dataclass(slots=True)
class Operation(Generic[A]):
    """One call of the API, and what its response means.

    - `method`: its name in the API, such as "Get".
    - `request`: the message to send.
    - `read`: returns the result that a response has, or raises MilenaError.
    - `repeatable`: True if making the call twice does no harm, even if the first one arrived.
    - `name`, `subject`: for messages: "get", b"the key".
    """

    method: str
    request: Message
    read: Callable[[Any], A]
    repeatable: bool
    name: str
    subject: bytes = b""

    def __str__(self) -> str:
        return f"{self.name} {self.subject.decode(errors='replace')!r}" if self.subject else self.name

    def timed_out(self, seconds: float, error: DeadlineExceeded) -> DeadlineExceeded:
        """Return `error` with the name of this operation, and the `seconds` within which it was not finished."""
        return DeadlineExceeded(f"{self}: not finished within {seconds:g} s ({error})")


def get(key: Key, bucket: str) -> Operation[bytes | None]:
    """Return the operation that reads a value. Raises InvalidRequest, as all below."""
    encoded = encode_key(key)
    return Operation(
        GET.name, pb.GetRequest(key=encoded, bucket=bucket), _read_value, GET.repeatable, "get", encoded
    )


def get_entry(key: Key, bucket: str) -> Operation[Entry | None]:
    """Return the operation that reads a value with its ETag, age and other metadata."""
    encoded = encode_key(key)
    return Operation(
        GET.name, pb.GetRequest(key=encoded, bucket=bucket), _read_entry, GET.repeatable, "get", encoded
    )


def get_range(
    key: Key,
    offset: int,
    length: int | None,
    bucket: str,
    if_match: str | None,
    blocks: BlockRead | None = None,
) -> Operation[Entry | None]:
    """Return the operation that reads a part of a value, with the object's metadata.

    `blocks`: the part is within one group of blocks, and the node that keeps them may return it.
    """
    encoded = encode_key(key)
    byte_range = checked_range(offset, length)
    _check_condition(if_match, None)
    request = pb.GetRequest(
        key=encoded, bucket=bucket, offset=byte_range.offset, length=byte_range.length, if_match=if_match
    )
    if blocks is not None:
        offset, length = blocks.ahead
        request.blocks.CopyFrom(
            pb.BlockRead(size=blocks.size, group_bytes=blocks.group_bytes, ahead_offset=offset, ahead_length=length)
        )

    def read(response: pb.GetResponse) -> Entry | None:
        # A server of a version without ranges sends the whole value.
        part = byte_range.max_bytes(response.size)
        if len(response.value) > part:
            raise FailedPrecondition("get_range: this router or node does not support ranges yet; upgrade it")
        return _read_entry(response)

    return Operation(GET.name, request, read, GET.repeatable, "get_range", encoded)


def stat(key: Key, bucket: str) -> Operation[Stat | None]:
    """Return the operation that reads the metadata of an object."""
    encoded = encode_key(key)
    request = pb.GetRequest(key=encoded, bucket=bucket, metadata_only=True)
    return Operation(GET.name, request, _read_stat, GET.repeatable, "stat", encoded)


def exists(key: Key, bucket: str) -> Operation[bool]:
    """Return the operation that determines whether there is an object `key`."""
    encoded = encode_key(key)
    request = pb.GetRequest(key=encoded, bucket=bucket, metadata_only=True)
    return Operation(GET.name, request, _read_exists, GET.repeatable, "exists", encoded)


def put(
    key: Key,
    value: Value,
    bucket: str,
    durability: Durability | None = None,
    if_match: str | None = None,
    if_none_match: str | None = None,
    ttl: float | None = None,
    max_value_bytes: int = MAX_VALUE_BYTES,
) -> Operation[Written]:
    """Return the operation that writes `value`; `ttl` is in seconds. Raises TypeError for what is not bytes."""
    encoded = encode_key(key)
    _check_condition(if_match, if_none_match)
    request = pb.PutRequest(
        key=encoded,
        bucket=bucket,
        value=encode_value(value, max_value_bytes),
        durability=check_durability(durability or ""),
        if_match=if_match,
        if_none_match=if_none_match,
        ttl_ms=encode_ttl(ttl),
    )
    return Operation(PUT.name, request, _read_written, PUT.repeatable, "set", encoded)


def copy(
    source: Key,
    source_bucket: str,
    target: Key,
    bucket: str,
    durability: Durability | None = None,
    if_match: str | None = None,
    if_none_match: str | None = None,
) -> Operation[Written]:
    """Return the operation that copies an object."""
    encoded = encode_key(target)
    _check_condition(if_match, if_none_match)
    request = pb.CopyRequest(
        key=encoded,
        bucket=bucket,
        source_key=encode_key(source),
        source_bucket=source_bucket,
        durability=check_durability(durability or ""),
        if_match=if_match,
        if_none_match=if_none_match,
    )

    def read(response: pb.CopyResponse) -> Written:
        if not response.successful:
            raise not_found(source)
        return Written(response.etag, response.node, response.durability)

    return Operation(COPY.name, request, read, COPY.repeatable, "copy", encoded)


def upload(
    key: Key, bucket: str, step: UploadStep, durability: Durability | None, if_none_match: str | None
) -> Operation[Written]:
    """Return the operation that sends a step of writing an object of any size."""
    encoded = encode_key(key)
    request = pb.UploadRequest(
        key=encoded,
        bucket=bucket,
        upload=step.upload,
        offset=step.offset,
        value=step.value,
        complete=step.complete,
        abort=step.abort,
        durability=check_durability(durability or ""),
        if_none_match=if_none_match,
    )
    return Operation(UPLOAD.name, request, _read_uploaded, UPLOAD.repeatable, "write", encoded)


def delete(
    key: Key, bucket: str, durability: Durability | None = None, if_match: str | None = None
) -> Operation[Written]:
    """Return the operation that deletes `key`."""
    encoded = encode_key(key)
    _check_condition(if_match, None)
    request = pb.DeleteRequest(
        key=encoded, bucket=bucket, durability=check_durability(durability or ""), if_match=if_match
    )
    return Operation(DELETE.name, request, _read_deleted, DELETE.repeatable, "delete", encoded)


def _check_condition(if_match: str | None, if_none_match: str | None) -> None:
    """Raise InvalidRequest for invalid conditions.

    An empty one is an error too: a condition that is empty by mistake must not become a write without one.
    """
    for name, condition in (("if_match", if_match), ("if_none_match", if_none_match)):
        if condition == "":
            raise InvalidRequest(f"{name}: is empty; leave it out to write without a condition")
    check_condition(if_match or "", if_none_match or "")


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing, in the order of its names; `cursor` begins the next part and is "" at the end."""

    objects: list[ObjectInfo]
    prefixes: list[CommonPrefix]
    cursor: str

    def names(self) -> list[ObjectInfo | CommonPrefix]:
        """Return objects and common prefixes in the order of their names."""
        names: list[ObjectInfo | CommonPrefix] = [*self.objects, *self.prefixes]
        return sorted(names, key=lambda name: name.prefix if isinstance(name, CommonPrefix) else name.key)


def scan(prefix: Key, bucket: str, cursor: str) -> Operation[Page]:
    """Return the operation that reads the page of a listing that begins at `cursor`."""
    encoded = encode_prefix(prefix)
    request = pb.ListRequest(prefix=encoded, bucket=bucket, cursor=cursor)
    return Operation(LIST.name, request, _read_page, LIST.repeatable, "scan", encoded)


def scan_level(prefix: Key, delimiter: Key, bucket: str, cursor: str) -> Operation[Page]:
    """Return the operation that reads a page of one level of keys: those without `delimiter` behind `prefix`."""
    encoded = encode_prefix(prefix)
    request = pb.ListRequest(prefix=encoded, bucket=bucket, cursor=cursor, delimiter=encode_delimiter(delimiter))
    return Operation(LIST.name, request, _read_page, LIST.repeatable, "scan_level", encoded)


def flush(keys: Iterable[Key] = (), bucket: str = "") -> Operation[Flushed]:
    """Return the operation that waits for the writes of `keys`; without keys, for all, in all buckets."""
    encoded = [encode_key(key) for key in keys]
    request = pb.FlushRequest(keys=encoded, bucket=bucket if encoded else "")
    return Operation(FLUSH.name, request, _read_flushed, FLUSH.repeatable, "flush")


def wait_durable(keys: Sequence[Key], bucket: str, timeout: float) -> Operation[None]:
    """Return the operation that waits until S3 has the writes of `keys`. Raises TypeError without keys."""
    flushing = flush(keys, bucket)
    if not keys:
        raise TypeError("wait_durable needs keys; flush() waits for everything")

    def read(response: pb.FlushResponse) -> None:
        if response.failed:
            raise FailedPrecondition(
                f"wait_durable: S3 rejects {response.failed} of these writes permanently; they are kept, and "
                "`milena writeback failed` shows why"
            )
        if response.remaining:
            raise DeadlineExceeded(f"wait_durable: {response.remaining} writes are not in S3 after {timeout:g} s")

    return Operation(FLUSH.name, flushing.request, read, FLUSH.repeatable, "wait_durable")


def opened(found: Stat | Entry, now: float) -> Opened:
    """Return the version that was found at `now`, monotonic seconds."""
    return Opened(found.etag, found.size, found.ttl, found.group_bytes, now)


def stat_of(entry: Entry) -> Stat:
    """Return the metadata of the object of which `entry` is a part."""
    return Stat(entry.size, entry.etag, entry.age, entry.dirty, entry.ttl, entry.block_bytes, entry.group_bytes)


def without_etag(key: Key) -> FailedPrecondition:
    """Return the error for an object of which several requests could not be of one version."""
    return FailedPrecondition(f"{key!r} has no ETag, by which all that is read would be of one version")


def replaced(key: Key, etag: str) -> ConditionFailed:
    """Return the error for an object that is not the version with `etag` any more."""
    return ConditionFailed(
        f"{key!r} was replaced or deleted: the version with the ETag {etag} does not exist any more"
    )


def part_of(key: Key, entry: Entry | None, byte_range: ByteRange, etag: str) -> bytes:
    """Return the bytes of `entry`, the reply to a read of `byte_range` of the version with `etag`.

    Raises ConditionFailed if there is no object, InternalError for another number of bytes.
    """
    if entry is None:
        raise replaced(key, etag)
    expected = byte_range.within(entry.size).length
    if len(entry.value) != expected:
        raise InternalError(f"get_range: {len(entry.value)} bytes of {key!r} in place of {expected}")
    return entry.value


def already_there(key: Key) -> ConditionFailed:
    """Return the error for a `key` that is to be created and has an object."""
    return ConditionFailed(f"{key!r} exists; nothing was written")


def wrong_mode(mode: str) -> str:
    """Return the text of the error for a mode in which no object can be opened."""
    if "a" in mode or "+" in mode:
        reason = "an object cannot be appended to nor changed in place, only be written anew"
    else:
        reason = "for text, put io.TextIOWrapper around the file"
    return f"mode: got {mode!r}; allowed: 'rb', 'wb', 'xb'; {reason}"


def not_found(key: Key) -> KeyNotFound:
    """Return the error for a `key` without an object."""
    return KeyNotFound(f"there is no key {key!r}")


def _read_value(response: pb.GetResponse) -> bytes | None:
    return response.value if response.successful else None


def _read_entry(response: pb.GetResponse) -> Entry | None:
    if not response.successful:
        return None
    value = response.value
    # Routers that do not send a size send the whole value.
    size = response.size or len(value)
    return Entry(
        value,
        response.etag,
        response.age_seconds,
        response.outcome,
        response.node,
        size,
        response.dirty,
        response.ttl_ms / 1000 if response.ttl_ms else None,
        response.block_bytes,
        response.group_bytes,
    )


def _read_stat(response: pb.GetResponse) -> Stat | None:
    if not response.successful:
        return None
    ttl = response.ttl_ms / 1000 if response.ttl_ms else None
    return Stat(
        response.size,
        response.etag,
        response.age_seconds,
        response.dirty,
        ttl,
        response.block_bytes,
        response.group_bytes,
    )


def _read_exists(response: pb.GetResponse) -> bool:
    return response.successful


def _read_written(response: pb.PutResponse) -> Written:
    if not response.successful:
        raise InternalError("set: the router replied that it did not succeed, without a reason")
    return Written(response.etag, response.node, response.durability)


def _read_uploaded(response: pb.UploadResponse) -> Written:
    if not response.successful:
        raise InternalError("write: the router replied that it did not succeed, without a reason")
    return Written(response.etag, response.node, response.durability)


def _read_deleted(response: pb.DeleteResponse) -> Written:
    if not response.successful:
        raise InternalError("delete: the router replied that it did not succeed, without a reason")
    return Written("", response.node, response.durability)


def _read_flushed(response: pb.FlushResponse) -> Flushed:
    return Flushed(response.remaining, response.failed, response.flushed)


def _read_page(response: pb.ListResponse) -> Page:
    objects = [ObjectInfo(item.key.decode(), item.size, item.etag, item.last_modified) for item in response.objects]
    return Page(objects, [CommonPrefix(prefix.decode()) for prefix in response.prefixes], response.cursor)
