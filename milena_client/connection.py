"""Shell. gRPC connections to the router, for threads and for an event loop: this package's only use of grpc.

A channel connects at its first call and reconnects by itself, so there is nothing to open and no pool to size.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import grpc
from google.protobuf.message import Message

from milena_common.errors import DeadlineExceeded, FailedPrecondition, MilenaError, Unavailable
from milena_common.grpc_options import channel_options
from milena_common.pb import router_server_pb2 as pb
from milena_common.status import from_grpc, is_answer

_METHODS: Mapping[str, tuple[type[Message], type[Message]]] = {
    "Get": (pb.GetRequest, pb.GetResponse),
    "Put": (pb.PutRequest, pb.PutResponse),
    "Delete": (pb.DeleteRequest, pb.DeleteResponse),
    "List": (pb.ListRequest, pb.ListResponse),
    "Join": (pb.JoinRequest, pb.JoinResponse),
    "Leave": (pb.LeaveRequest, pb.LeaveResponse),
    "Nodes": (pb.NodesRequest, pb.NodesResponse),
    "Owner": (pb.OwnerRequest, pb.OwnerResponse),
    "Stats": (pb.StatsRequest, pb.StatsResponse),
    "Flush": (pb.FlushRequest, pb.FlushResponse),
    "Failed": (pb.FailedRequest, pb.FailedResponse),
    "Settle": (pb.SettleRequest, pb.SettleResponse),
}

_STREAMS: Mapping[str, tuple[type[Message], type[Message]]] = {
    "WatchRing": (pb.WatchRingRequest, pb.RingUpdate),
}

_CLOSED = "this client is closed"


def _methods(channel: Any) -> dict[str, Any]:
    kinds = ((channel.unary_unary, _METHODS), (channel.unary_stream, _STREAMS))
    return {
        name: make(
            f"/router_server.Router/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=answer.FromString,
        )
        for make, methods in kinds
        for name, (request, answer) in methods.items()
    }


class _Router:
    """Who is called, for messages about calls that did not get through. `closed`: by this client."""

    __slots__ = ("_address", "_note", "closed")

    def __init__(self, address: str, note: str) -> None:
        self._address = address
        self._note = note
        self.closed = False

    def error(
        self,
        method: str,
        status: grpc.StatusCode,
        details: str | None,
        metadata: Iterable[tuple[str, str | bytes]] | None,
    ) -> MilenaError:
        """What a failed call means: what Milena answered, or why there was no answer of Milena's."""
        metadata = tuple(metadata or ())
        if not is_answer(metadata):
            if status is grpc.StatusCode.UNAVAILABLE:
                # gRPC's details repeat the address in several notations; the reason comes last.
                reason = (details or "no answer").rsplit("remote host: ", 1)[-1][:200]
                advice = f" ({self._note})" if self._note else ""
                return Unavailable(
                    f"the router at {self._address} cannot be reached: {reason}. Is it running, and "
                    f"is this its gRPC address?{advice}"
                )
            if status is grpc.StatusCode.CANCELLED:
                if self.closed:
                    return FailedPrecondition(_CLOSED)
                return Unavailable(f"the router at {self._address}, or a proxy before it, broke off the call")
            if status is grpc.StatusCode.UNIMPLEMENTED:
                return FailedPrecondition(f"the server at {self._address} has no method Router/{method}")
        return from_grpc(status, details, metadata)

    def no_answer(self, timeout: float) -> DeadlineExceeded:
        """For None in place of an answer: gRPC drops it if the time ends while it arrives (grpc/grpc#23559)."""
        return DeadlineExceeded(f"the router at {self._address} did not answer within {timeout:.3g} s")


class GrpcTransport:
    """A `Transport` to the router at `address` (host:port); `note` is added when it cannot be reached."""

    def __init__(self, address: str, note: str = "") -> None:
        self._router = _Router(address, note)
        self._channel = grpc.insecure_channel(address, options=channel_options())
        self._methods = _methods(self._channel)
        self._process = os.getpid()

    def call(self, method: str, request: Message, timeout: float) -> Message:
        if self._router.closed:
            raise FailedPrecondition(_CLOSED)
        try:
            answer: Message | None = self._methods[method](request, timeout=timeout)
        except grpc.RpcError as error:
            raise self._error(method, error) from None
        except ValueError:
            raise FailedPrecondition(_CLOSED) from None
        if answer is None:
            raise self._router.no_answer(timeout)
        return answer

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        future: Future[Message] = Future()
        if self._router.closed:
            future.set_exception(FailedPrecondition(_CLOSED))
            return future
        try:
            call = self._methods[method].future(request, timeout=timeout)
        except ValueError:
            future.set_exception(FailedPrecondition(_CLOSED))
            return future

        def finished(call: Any) -> None:
            if not future.set_running_or_notify_cancel():
                return
            if call.code() is not grpc.StatusCode.OK:
                future.set_exception(self._error(method, call))
            elif (answer := call.result()) is None:
                future.set_exception(self._router.no_answer(timeout))
            else:
                future.set_result(answer)

        future.add_done_callback(lambda future: call.cancel() if future.cancelled() else None)
        call.add_done_callback(finished)
        return future

    def watch(self, method: str, request: Message) -> Generator[Any, None, None]:
        """The answers of a stream, as they come; blocks between them, until the router or `close` ends it.

        Raises MilenaError, FailedPrecondition if this transport is closed.
        """
        if self._router.closed:
            raise FailedPrecondition(_CLOSED)
        try:
            stream = self._methods[method](request)
        except ValueError:
            raise FailedPrecondition(_CLOSED) from None
        try:
            yield from stream
        except grpc.RpcError as error:
            raise self._error(method, error) from None
        finally:
            stream.cancel()

    def close(self) -> None:
        self._router.closed = True
        # A channel of the process that this one was forked from would wait for threads that are not here.
        if self._process == os.getpid():
            self._channel.close()

    def _error(self, method: str, error: Any) -> MilenaError:
        return self._router.error(method, error.code(), error.details(), error.trailing_metadata())


class AsyncGrpcTransport:
    """An `AsyncTransport` to the router at `address`, for the event loop of its first call."""

    def __init__(self, address: str, note: str = "") -> None:
        self._address = address
        self._router = _Router(address, note)
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}
        self._streams: set[Any] = set()

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        if self._channel is None:
            self._connect()
        try:
            answer: Message | None = await self._methods[method](request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise self._router.error(method, error.code(), error.details(), error.trailing_metadata()) from None
        except grpc.aio.UsageError:
            raise FailedPrecondition(_CLOSED) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._router.closed or (task is not None and task.cancelling()):
                raise  # the caller gave up
            raise FailedPrecondition(_CLOSED) from None
        if answer is None:
            raise self._router.no_answer(timeout)
        return answer

    async def watch(self, method: str, request: Message) -> AsyncGenerator[Any, None]:
        """The answers of a stream, as they come, until the router or `close` ends it.

        Raises MilenaError, FailedPrecondition if this transport is closed.
        """
        if self._channel is None:
            self._connect()
        stream = None
        try:
            stream = self._methods[method](request)
            self._streams.add(stream)
            async for answer in stream:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self._router.error(method, error.code(), error.details(), error.trailing_metadata()) from None
        except grpc.aio.UsageError:
            raise FailedPrecondition(_CLOSED) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._router.closed or (task is not None and task.cancelling()):
                raise  # the caller gave up
            raise FailedPrecondition(_CLOSED) from None
        finally:
            if stream is not None:
                self._streams.discard(stream)
                stream.cancel()

    async def close(self) -> None:
        self._router.closed = True
        # The channel ends the calls that it finds in the stacks of tasks, and does not look into generators.
        for stream in self._streams:
            stream.cancel()
        if self._channel is not None:
            await self._channel.close()

    def _connect(self) -> None:
        # A channel belongs to the running loop, and a client may be made before there is one.
        if self._router.closed:
            raise FailedPrecondition(_CLOSED)
        self._channel = grpc.aio.insecure_channel(self._address, options=channel_options())
        self._methods = _methods(self._channel)
