"""Objects in pieces over gRPC: all of one version, whole or not at all, and with no more than a piece in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest

from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import (
    ConditionFailed,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    MilenaError,
    Overloaded,
    RangeNotSatisfiable,
)
from milena_common.api.etags import etag_of
from milena_common.api.methods import GET, NODE_OPERATIONS, UPLOAD, served_by_node
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.api.uploads import MAX_STEP_BYTES
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.rpc import value_streams
from milena_common.rpc.options import channel_options
from milena_common.rpc.pieces import PIECE_BYTES, piece_methods
from milena_common.rpc.server import GrpcServer
from milena_common.rpc.status import from_grpc
from milena_common.runtime.clock import SystemClock
from tests.support.waiting import eventually

SERVICE = "cache_server.Cache"
SOON = 10.0
VALUE = bytes(range(256)) * (3 * PIECE_BYTES // 256) + b"the end"


class Store:
    """One object, and the uploads of it: Get and Upload as a node has them."""

    def __init__(self) -> None:
        self.value: bytes | None = VALUE
        self.etags = True
        self.max_bytes = PIECE_BYTES
        self.gets: list[tuple[int, int, str]] = []
        self.uploads: dict[str, bytes] = {}
        self.aborted: list[str] = []
        self.stored: list[pb.UploadRequest] = []
        self.fails: MilenaError | None = None

    async def get(self, request: pb.GetRequest, _: float | None) -> bytes:
        self.gets.append((request.offset, request.length, request.if_match))
        if self.value is None:
            return pb.GetResponse(outcome="miss").SerializeToString()
        etag = etag_of(self.value) if self.etags else ""
        if request.if_match and request.if_match != etag:
            raise ConditionFailed("another version")
        if request.metadata_only:
            return pb.GetResponse(successful=True, etag=etag, size=len(self.value)).SerializeToString()
        part = ByteRange(request.offset, request.length).of(self.value)
        if len(part) > self.max_bytes:
            raise FailedPrecondition("length: the range has more than MAX_VALUE_BYTES")
        return pb.GetResponse(successful=True, value=part, etag=etag, size=len(self.value)).SerializeToString()

    async def upload(self, request: pb.UploadRequest, _: float | None) -> bytes:
        if self.fails is not None and not request.abort:
            raise self.fails
        if request.abort:
            self.aborted.append(request.upload)
            return b""
        assert request.offset == len(self.uploads.get(request.upload, b""))
        self.uploads[request.upload] = self.uploads.get(request.upload, b"") + request.value
        if request.complete:
            self.stored.append(request)
            self.value = self.uploads.pop(request.upload)
        return pb.UploadResponse(successful=True, etag="e", received=request.offset).SerializeToString()


class RunningServer:
    """A server of `store`, and its budget."""

    def __init__(self, store: Store, channel: grpc.aio.Channel, budget: ByteBudget) -> None:
        self.store = store
        self.budget = budget
        self.read = channel.unary_stream(
            f"/{SERVICE}/Read", pb.GetRequest.SerializeToString, pb.GetResponse.FromString
        )
        self.write = channel.stream_unary(
            f"/{SERVICE}/Write", pb.UploadRequest.SerializeToString, pb.UploadResponse.FromString
        )

    async def read_all(self, request: pb.GetRequest) -> bytes:
        return b"".join([each.value async for each in self.read(request, timeout=SOON)])


@asynccontextmanager
async def server_of(store: Store, limit: int = 2**26) -> AsyncIterator[RunningServer]:
    budget = ByteBudget(limit)
    server = GrpcServer(SERVICE, 2**26, budget, SOON)
    address = server.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")
    methods = served_by_node({GET: store.get, UPLOAD: store.upload})
    pieces = piece_methods(methods, budget, SystemClock())
    await server.start({}, CallCounts(NODE_OPERATIONS), pieces=pieces)
    try:
        async with grpc.aio.insecure_channel(str(address), channel_options()) as channel:
            yield RunningServer(store, channel, budget)
    finally:
        await server.stop(0)


def raised(error: grpc.aio.AioRpcError) -> Exception:
    return from_grpc(error.code(), error.details(), error.trailing_metadata())


def messages(value: bytes, size: int = PIECE_BYTES) -> Iterator[pb.UploadRequest]:
    for at in range(0, len(value), size):
        message = pb.UploadRequest(value=value[at : at + size], complete=at + size >= len(value))
        if not at:
            message.MergeFrom(pb.UploadRequest(key=b"k", durability="through", if_none_match="*"))
        yield message


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 0), (0, 10), (5, 2 * PIECE_BYTES), (-PIECE_BYTES - 3, 0), (-10, 4), (-len(VALUE) - 5, 0), (100, 2**60)],
)
async def test_a_read_returns_the_bytes_that_a_get_returns_in_pieces(offset: int, length: int) -> None:
    async with server_of(Store()) as server:
        pieces = [each async for each in server.read(pb.GetRequest(key=b"k", offset=offset, length=length))]
        assert b"".join(each.value for each in pieces) == ByteRange(offset, length).of(VALUE)
        assert pieces[0].size == len(VALUE)
        assert all(len(each.value) <= PIECE_BYTES for each in pieces)
        await eventually(lambda: server.budget.used == 0)


async def test_pieces_are_as_small_as_the_node_allows() -> None:
    store = Store()
    store.max_bytes = 100_000
    async with server_of(store) as server:
        pieces = [each async for each in server.read(pb.GetRequest(key=b"k", length=300_000), timeout=SOON)]
        assert b"".join(each.value for each in pieces) == VALUE[:300_000]
        assert len(pieces[0].value) == PIECE_BYTES // 8
        store.max_bytes = 100
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.read_all(pb.GetRequest(key=b"k"))
        assert type(raised(caught.value)) is FailedPrecondition


@pytest.mark.parametrize("value", [b"", b"x", bytes(PIECE_BYTES), None])
async def test_a_small_object_and_none_are_one_piece(value: bytes | None) -> None:
    store = Store()
    store.value = value
    async with server_of(store) as server:
        (piece,) = [each async for each in server.read(pb.GetRequest(key=b"k"))]
        assert (piece.successful, piece.value) == (value is not None, value or b"")


@pytest.mark.parametrize("later", [None, VALUE[::-1], VALUE + b"longer", b"short"])
async def test_a_reader_gets_no_bytes_of_another_version(later: bytes | None) -> None:
    store = Store()
    async with server_of(store) as server:
        call = server.read(pb.GetRequest(key=b"k"))
        read = [(await call.read()).value]
        store.value = later

        async def read_on() -> None:
            while (piece := await call.read()) is not grpc.aio.EOF:
                read.append(piece.value)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_on()
        assert isinstance(raised(caught.value), ConditionFailed)
        assert VALUE.startswith(b"".join(read))


async def test_an_object_without_an_etag_is_read_if_it_is_one_piece() -> None:
    store = Store()
    store.etags = False
    async with server_of(store) as server:
        assert await server.read_all(pb.GetRequest(key=b"k", length=10)) == VALUE[:10]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.read_all(pb.GetRequest(key=b"k"))
        assert type(raised(caught.value)) is FailedPrecondition


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (pb.GetRequest(key=b"k", offset=len(VALUE)), RangeNotSatisfiable),
        (pb.GetRequest(key=b"k", if_match='"other"'), ConditionFailed),
        (pb.GetRequest(key=b"k", metadata_only=True), InvalidRequest),
    ],
)
async def test_a_read_that_cannot_be_begun_is_rejected(request_: pb.GetRequest, error: type[MilenaError]) -> None:
    async with server_of(Store()) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.read_all(request_)
        assert isinstance(raised(caught.value), error)


async def test_a_slow_reader_has_one_piece_in_memory_and_its_bytes_come_back_when_it_goes() -> None:
    store = Store()
    store.value = bytes(64 * PIECE_BYTES)
    async with server_of(store) as server:
        call = server.read(pb.GetRequest(key=b"k"))
        await call.read()
        gets = 0
        while gets != len(store.gets):  # what gRPC has in transit is taken; then nothing is requested any more
            gets = len(store.gets)
            await asyncio.sleep(0.05)
        assert gets < 16
        assert server.budget.used < 2 * COPIES * PIECE_BYTES
        call.cancel()
        await eventually(lambda: server.budget.used == 0)


async def test_the_deadline_of_a_read_is_that_of_all_its_pieces() -> None:
    store = Store()
    get = store.get

    async def slow(request: pb.GetRequest, remaining: float | None) -> bytes:
        assert remaining is not None
        await asyncio.sleep(0.04)
        return await get(request, remaining)

    store.get = slow  # type: ignore[method-assign]
    async with server_of(store) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [each async for each in server.read(pb.GetRequest(key=b"k"), timeout=0.1)]
        assert isinstance(raised(caught.value), DeadlineExceeded)


@pytest.mark.parametrize("size", [1000, PIECE_BYTES])
async def test_a_written_object_is_stored_as_the_first_message_says(size: int) -> None:
    store, value = Store(), VALUE[: 3 * size + 7]
    async with server_of(store) as server:
        response = await server.write(messages(value, size), timeout=SOON)
        assert (response.successful, response.etag, store.value) == (True, "e", value)
        (last,) = store.stored
        assert (last.key, last.durability, last.if_none_match) == (b"k", "through", "*")
        assert store.aborted == []
        await eventually(lambda: server.budget.used == 0)


@pytest.mark.parametrize("abort", [False, True])
async def test_nothing_is_stored_if_the_stream_ends_before_the_object(abort: bool) -> None:
    store = Store()
    begun = [*messages(VALUE)][:-1] + [pb.UploadRequest(abort=True)] * abort
    async with server_of(store) as server:
        if abort:
            assert (await server.write(iter(begun), timeout=SOON)).etag == ""
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.write(iter(begun), timeout=SOON)
            assert isinstance(raised(caught.value), InvalidRequest)
        await eventually(lambda: store.aborted == [*store.uploads])
        assert (len(store.aborted), store.stored, store.value) == (1, [], VALUE)


async def test_nothing_is_stored_if_the_writer_goes() -> None:
    store = Store()
    async with server_of(store) as server:
        call = server.write(timeout=SOON)
        await call.write(next(messages(VALUE)))
        await eventually(lambda: bool(store.uploads))
        call.cancel()
        await eventually(lambda: store.aborted == [*store.uploads])
        assert (len(store.aborted), store.stored) == (1, [])
        await eventually(lambda: server.budget.used == 0)


async def test_a_writer_that_sends_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_streams, "STALL_SECONDS", 0.05)
    store = Store()
    async with server_of(store) as server:
        call = server.write()
        await call.write(next(messages(VALUE)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert isinstance(raised(caught.value), DeadlineExceeded)
        await eventually(lambda: store.aborted == [*store.uploads])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([], "without a message"),
        ([pb.UploadRequest(key=b"k", value=bytes(MAX_STEP_BYTES + 1), complete=True)], "allowed are at most"),
        ([pb.UploadRequest(key=b"k", store_upload="u", complete=True)], "are for Upload"),
    ],
)
async def test_a_write_of_other_messages_is_rejected(bad: list[pb.UploadRequest], reason: str) -> None:
    store = Store()
    async with server_of(store) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.write(iter(bad), timeout=SOON)
        error = raised(caught.value)
        assert isinstance(error, InvalidRequest)
        assert reason in str(error)
        assert (store.stored, store.uploads) == ([], {})


async def test_a_write_that_fails_is_dropped() -> None:
    store = Store()
    store.fails = Overloaded("no room")
    async with server_of(store) as server:
        # One message: gRPC replaces the status if a client is sending another one when it comes.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.write(messages(VALUE[:10]), timeout=SOON)
        assert isinstance(raised(caught.value), Overloaded)
        await eventually(lambda: len(store.aborted) == 1)


async def test_readers_have_a_share_of_the_bytes_in_flight() -> None:
    store = Store()
    store.value = bytes(64 * PIECE_BYTES)
    async with server_of(store, limit=2 * COPIES * PIECE_BYTES) as server:
        first = server.read(pb.GetRequest(key=b"k"))
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.read_all(pb.GetRequest(key=b"k"))
        assert isinstance(raised(caught.value), Overloaded)
        first.cancel()
        await eventually(lambda: server.budget.used == 0)


async def test_writers_have_a_share_of_the_bytes_in_flight() -> None:
    store = Store()
    async with server_of(store, limit=8 * COPIES * MAX_STEP_BYTES) as server:
        first = server.write(timeout=SOON)
        await first.write(next(messages(VALUE)))
        await eventually(lambda: bool(store.uploads))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.write(messages(VALUE[:10]), timeout=SOON)
        assert isinstance(raised(caught.value), Overloaded)
        first.cancel()
        await eventually(lambda: server.budget.used == 0)
