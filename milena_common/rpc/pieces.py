"""Coordination. Objects of any size in pieces: Read by repeated Gets, Write by the steps of an Upload.

Routers and nodes have it alike: each piece is a call of their own method, with its ownership, its retries and its
room in the budget. Between two pieces a stream holds nothing but the one that its caller has yet to take, or has
sent, so that the memory of one stream is that of one piece, however slow the other side is.

A reader gets one version: each further piece has the ETag of the first one as its condition. Otherwise: (1) a piece
is sent; (2) another writer replaces the object by one of the same size; (3) the next piece is of that one.

Only `complete` in a message ends an object that is written. The end of the stream does not: a caller that is
killed, or gives up, ends it too, and half an object would be stored.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from milena_common.api.errors import (
    ConditionFailed,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    MilenaError,
    RangeNotSatisfiable,
)
from milena_common.api.methods import GET, READ, UPLOAD, WRITE
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.api.uploads import MAX_STEP_BYTES
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, CallBytes
from milena_common.rpc.calls import Message
from milena_common.runtime.clock import Clock

# Bytes of one piece that is read.
PIECE_BYTES: Final = 2**19
MIN_PIECE_BYTES: Final = 1024
# Seconds until the parts of an object that is not completed are dropped, if the nodes cannot be reached at once.
ABORT_SECONDS: Final = 5.0
_NAME_BYTES: Final = 16

# A method of the API: takes the request and its remaining seconds (None: no deadline).
Get = Callable[[Any, float | None], Awaitable[bytes]]
Upload = Callable[[pb.UploadRequest, float | None], Awaitable[bytes]]
# Returns the next message of a caller; None at the end of its stream.
NextMessage = Callable[[], Awaitable[Any]]
# Takes the request and its remaining seconds; yields serialized responses.
ReadMethod = Callable[[Any, float | None], AsyncGenerator[bytes, None]]
# Takes the caller's messages and the remaining seconds; returns the serialized response.
WriteMethod = Callable[[NextMessage, float | None], Awaitable[bytes]]


class _Deadline:
    def __init__(self, clock: Clock, remaining: float | None) -> None:
        self._clock = clock
        self._at = None if remaining is None else clock.now() + remaining

    def remaining(self, done: str) -> float | None:
        """Return the seconds that are left, None without a deadline. Raises DeadlineExceeded."""
        if self._at is None:
            return None
        left = self._at - self._clock.now()
        if left <= 0:
            raise DeadlineExceeded(f"the call's time was over after {done}")
        return left


class PieceMethods(NamedTuple):
    """Methods that return, or take, one object in pieces: operation, request message and method by name."""

    reads: Mapping[str, tuple[str, type[Message], ReadMethod]] = MappingProxyType({})
    writes: Mapping[str, tuple[str, type[Message], WriteMethod]] = MappingProxyType({})


def piece_methods(
    service: Mapping[str, tuple[str, type[Message], Any]],
    budget: ByteBudget,
    clock: Clock,
    admit: Callable[[float | None], object] = lambda _: None,
) -> PieceMethods:
    """Return Read and Write of a `service` that has Get and Upload. `budget`: the process's bytes in flight.

    `admit` is called with the remaining seconds when a stream begins. Raises RateLimited.
    """
    _, get_request, get = service[GET.name]
    _, upload_request, upload = service[UPLOAD.name]

    def read(request: Any, remaining: float | None) -> AsyncGenerator[bytes, None]:
        admit(remaining)
        return read_pieces(get, request, budget, clock, remaining)

    def write(next_message: NextMessage, remaining: float | None) -> Awaitable[bytes]:
        admit(remaining)
        return write_pieces(upload, next_message, clock, remaining)

    return PieceMethods(
        {READ.name: (READ.operation, get_request, read)}, {WRITE.name: (WRITE.operation, upload_request, write)}
    )


async def read_pieces(
    get: Get, request: Any, budget: ByteBudget, clock: Clock, remaining: float | None
) -> AsyncGenerator[bytes, None]:
    """Yield serialized responses with the bytes that `request`, a GetRequest, names, PIECE_BYTES in each.

    Needs a task of its own, which holds the bytes of a piece in `budget` until the next one is requested. Raises as
    `get` does; ConditionFailed if the object was replaced or deleted meanwhile, FailedPrecondition if it has no
    ETag, by which all pieces would be of one version.
    """
    if request.metadata_only:
        raise InvalidRequest("metadata_only: is for Get")
    deadline = _Deadline(clock, remaining)
    held = CallBytes(budget)

    async def piece(offset: int, length: int, if_match: str) -> bytes:
        part = type(request)()
        part.CopyFrom(request)
        part.offset, part.length, part.if_match = offset, length, if_match
        # A task of its own, whose bytes are released when it has ended: this one may last for hours. What it has
        # returned is in memory, and is counted without waiting.
        got = await asyncio.ensure_future(get(part, deadline.remaining(f"{offset} bytes")))
        held.set_total(COPIES * len(got))
        return got

    piece_bytes = PIECE_BYTES

    async def first_piece() -> bytes:
        nonlocal piece_bytes
        while True:
            try:
                return await piece(
                    request.offset, min(request.length or piece_bytes, piece_bytes), request.if_match
                )
            except ConditionFailed:
                raise
            except FailedPrecondition:
                # The nodes' MAX_VALUE_BYTES may be less than a piece.
                piece_bytes //= 2
                if piece_bytes < MIN_PIECE_BYTES:
                    raise

    try:
        first = await first_piece()
    except RangeNotSatisfiable:
        # The whole of an empty object is no error, unlike its first bytes.
        if request.offset or request.length:
            raise
        about = type(request)()
        about.CopyFrom(request)
        about.metadata_only, about.if_match = True, ""
        first = await asyncio.ensure_future(get(about, deadline.remaining("0 bytes")))
        if pb.GetResponse.FromString(first).size:
            raise
        yield first
        return
    found = pb.GetResponse.FromString(first)
    if not found.successful:
        yield first
        return
    etag, size = found.etag, found.size
    start = max(0, request.offset + size) if request.offset < 0 else request.offset
    stop = min(start + request.length, size) if request.length else size
    start += len(found.value)
    del found
    if start < stop and not etag:
        raise FailedPrecondition("the object has no ETag, by which all that is read would be of one version")
    yield first
    del first
    while start < stop:
        held.set_total(0)
        length = min(piece_bytes, stop - start)
        got = await piece(start, length, etag)
        found = pb.GetResponse.FromString(got)
        # An object that was deleted meets any condition of a read: there is none to compare it with.
        if not found.successful or found.size != size or len(found.value) != length:
            raise ConditionFailed(f"the version with the ETag {etag} was replaced or deleted after {start} bytes")
        del found
        yield got
        del got
        start += length


async def write_pieces(upload: Upload, next_message: NextMessage, clock: Clock, remaining: float | None) -> bytes:
    """Store an object of the messages, UploadRequests of a node, of a caller; return the serialized response.

    The first message names the object, and has the conditions and the durability. Nothing is
    stored if no message has `complete`, or one has `abort`. Raises InvalidRequest, and as `upload` does.
    """
    deadline = _Deadline(clock, remaining)
    name, received = secrets.token_hex(_NAME_BYTES), 0
    step = await next_message()
    if step is None:
        raise InvalidRequest("request: the stream ended without a message")
    if step.store_upload or step.parts:
        raise InvalidRequest("store_upload, parts: are for Upload")
    about = pb.UploadRequest(
        key=step.key,
        bucket=step.bucket,
        owned_since=step.owned_since,
        upload=name,
        durability=step.durability,
        if_match=step.if_match,
        if_none_match=step.if_none_match,
    )
    begun = False
    try:
        while not step.abort:
            size, complete = len(step.value), step.complete
            if size > MAX_STEP_BYTES:
                raise InvalidRequest(f"value: a message has {size} bytes; allowed are at most {MAX_STEP_BYTES}")
            request = pb.UploadRequest()
            request.CopyFrom(about)
            request.value, request.offset, request.complete = step.value, received, complete
            received += size
            begun = True
            # As above: what the step holds is released at its end, and not at that of the stream.
            result = await asyncio.ensure_future(upload(request, deadline.remaining(f"{received} bytes")))
            if complete:
                begun = False
                return result
            del request
            step = await next_message()
            if step is None:
                raise InvalidRequest(
                    "complete: the stream ended without it, so that the object is not known to be whole; nothing "
                    "was stored"
                )
    finally:
        if begun:
            about.abort = True
            dropping = asyncio.ensure_future(_drop(upload, about))
            _DROPPING.add(dropping)
            dropping.add_done_callback(_DROPPING.discard)
    return pb.UploadResponse(successful=True).SerializeToString()


# Drops in progress: a task without a reference may be collected before it ends.
_DROPPING: set[asyncio.Future[None]] = set()


async def _drop(upload: Upload, request: pb.UploadRequest) -> None:
    with suppress(MilenaError):  # the nodes drop it themselves, a little later
        await upload(request, ABORT_SECONDS)
