"""Shell. gRPC connections to the router, for threads and for an event loop: this package's only use of grpc.

A channel connects at its first call and reconnects by itself, so callers open nothing and size no pool.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast
from weakref import WeakSet

import grpc
from google.protobuf.message import Message

from milena_common.api.credentials import Credentials, CurrentCredentials, no_credentials
from milena_common.api.errors import DeadlineExceeded, FailedPrecondition, MilenaError, Overloaded, Unavailable
from milena_common.api.methods import LARGE_REQUESTS, METHODS, UNARY_OF_EXCHANGE
from milena_common.rpc.opening import NOT_BEGUN, STOPS, no_connection, open_async_channel, open_channel
from milena_common.rpc.options import MAX_PENDING_SECONDS, REQUEST_BYTES
from milena_common.rpc.status import from_grpc, is_response, is_shed
from milena_common.runtime.event_loops import Home
from milena_common.runtime.forks import leak, survive_forks, use_grpc
from milena_common.runtime.patched import reject_patched
from milena_common.tls.certificates import REFRESH_SECONDS, Certificates

_CLOSED = "this client is closed"

# Seconds to wait for gRPC to report the end of a cancelled call; it usually takes milliseconds.
_CANCEL_SECONDS = 1.0
# With TLS: seconds until a channel is closed after a newer one was opened.
RETIRED_SECONDS = 60.0
_CALL_END_SECONDS = 0.05


_Metadata = tuple[tuple[str, str], ...]


def _announced(method: str, request: Message, credentials: Credentials | None) -> tuple[Any, _Metadata | None]:
    """Return the request, serialized if it may be large, and the metadata: its size then, and the login."""
    login = () if credentials is None else credentials.call_metadata()
    if method not in LARGE_REQUESTS:
        return request, login or None
    serialized = request.SerializeToString()
    return serialized, ((REQUEST_BYTES, str(len(serialized))), *login)


def _methods(channel: Any) -> dict[str, Any]:
    kinds = {"unary": channel.unary_unary, "stream": channel.unary_stream, "exchange": channel.stream_stream}
    return {
        method.name: kinds[method.form](
            method.router_path,
            request_serializer=None if method.large_request else method.router.request.SerializeToString,
            response_deserializer=method.router.response.FromString,
        )
        for method in METHODS
        if method.router and method.form in kinds
    }


# Why there was no reply from the router: there is no connection, or the router stops and has not begun the call, so
# that nothing was done; or the connection failed, or hangs.
NOT_SENT, NO_REPLY = "not sent", "no reply"

E = TypeVar("E", bound=MilenaError)


def connection_failure(error: MilenaError) -> str:
    """Return NOT_SENT or NO_REPLY for an error of the connection; "" for one that the router has replied with."""
    return str(error.__dict__.get("connection_failure", ""))


def _of_connection(error: E, failure: str) -> E:
    error.__dict__["connection_failure"] = failure
    if failure == NOT_SENT:
        error.__dict__["nothing_sent"] = True
    return error


class _Router:
    """The router's address, for messages about failed calls. `closed`: True once this client has closed."""

    __slots__ = ("_address", "_certificates", "_hint", "closed")

    def __init__(self, address: str, hint: str, certificates: Certificates | None) -> None:
        self._address = address
        self._hint = hint
        self._certificates = certificates
        self.closed = False

    def error(
        self,
        method: str,
        status: grpc.StatusCode,
        details: str | None,
        metadata: Iterable[tuple[str, str | bytes]] | None,
    ) -> MilenaError:
        """Return the error of a failed call: the one that Milena sent, or one for a failure of the transport."""
        metadata = tuple(metadata or ())
        if not is_response(metadata):
            if status is grpc.StatusCode.UNAVAILABLE:
                if (details or "").startswith(STOPS):
                    text = f"the router at {self._address} stops, and has not begun the call; nothing was done"
                    return _of_connection(Unavailable(text), NOT_SENT)
                # gRPC's details repeat the address in several notations; the reason is at the end.
                host = self._address.rpartition(":")[0].strip("[]")
                reason = no_connection(details or "", self._certificates, host)
                reason = reason or (details or "no response").rsplit("remote host: ", 1)[-1][:200]
                advice = f" ({self._hint})" if self._hint else ""
                error = Unavailable(
                    f"the router at {self._address} cannot be reached: {reason}. Is it running, and "
                    f"is this its gRPC address?{advice}"
                )
                return _of_connection(error, NOT_SENT if (details or "").startswith(NOT_BEGUN) else NO_REPLY)
            if status is grpc.StatusCode.CANCELLED:
                if self.closed:
                    return FailedPrecondition(_CLOSED)
                if is_shed(status, details):
                    return Overloaded(
                        f"the router at {self._address} is overloaded: the call waited {MAX_PENDING_SECONDS} s and "
                        "was not begun, so nothing was done. Make fewer calls at once, let clients go straight to "
                        "the nodes (DIRECT_ACCESS), or have the router reject what is too much (RATE_LIMIT)"
                    )
                text = f"the router at {self._address}, or a proxy before it, broke off the call"
                return _of_connection(Unavailable(text), NO_REPLY)
            if status is grpc.StatusCode.DEADLINE_EXCEEDED:
                return _of_connection(from_grpc(status, details, metadata), NO_REPLY)
            if status is grpc.StatusCode.UNIMPLEMENTED:
                return FailedPrecondition(f"the server at {self._address} has no method Router/{method}")
        return from_grpc(status, details, metadata)

    def no_response(self, timeout: float) -> DeadlineExceeded:
        """Return the error for None as response: gRPC drops a response that arrives as the timeout ends.

        See grpc/grpc#23559.
        """
        text = f"the router at {self._address} did not respond within {timeout:.3g} s"
        return _of_connection(DeadlineExceeded(text), NO_REPLY)


class GrpcTransport:
    """A `Transport` to the router at `address` (host:port); `note` is added to errors when it cannot be reached.

    The first call opens the channel, so that a process may be forked before it. In a process that was forked after
    it, every call raises FailedPrecondition. `certificates`: encrypt the connection; new ones take effect with a
    new channel. None: it is plain.
    """

    def __init__(
        self,
        address: str,
        hint: str = "",
        certificates: Certificates | None = None,
        credentials: CurrentCredentials = no_credentials,
    ) -> None:
        self._address = address
        self._certificates = certificates
        self._credentials = credentials
        self._number = 0  # of the certificates of the channel
        self._streams: WeakSet[Any] = WeakSet()
        self._router = _Router(address, hint, certificates)
        self._channel: grpc.Channel | None = None
        self._methods: dict[str, Any] = {}
        self._connecting = threading.Lock()
        reject_patched(sys.modules)
        survive_forks(self)

    def _connected(self) -> dict[str, Any]:
        """Return the methods by name.

        Raises FailedPrecondition if this is closed, or the parent process used gRPC.
        """
        if self._router.closed:
            raise FailedPrecondition(_CLOSED)
        use_grpc()
        with self._connecting:
            if self._channel is None:
                reject_patched(sys.modules)  # may have happened since the start
                self._open()
        return self._methods

    def _open(self) -> None:
        if self._certificates is not None:
            self._number = self._certificates.number
        self._channel = open_channel(self._address, self._certificates)
        self._methods = _methods(self._channel)

    def _ready(self) -> dict[str, Any]:
        """Return the methods by name, of a new channel if there are new certificates. Raises as `_connected`."""
        methods = self._methods or self._connected()
        if self._certificates is None or self._certificates.refreshed(REFRESH_SECONDS).number == self._number:
            return methods
        with self._connecting:
            old = self._channel
            if old is None or self._router.closed or self._certificates.number == self._number:
                return self._methods
            self._open()
        for stream in tuple(self._streams):
            stream.cancel()  # its reader opens it anew, over the new channel
        timer = threading.Timer(RETIRED_SECONDS, old.close)
        timer.daemon = True
        timer.start()
        return self._methods

    def forked(self) -> None:
        leak((self._channel, self._methods))
        self._channel = None
        self._methods = {}
        self._connecting = threading.Lock()

    def call(self, method: str, request: Message, timeout: float) -> Message:
        methods = self._ready()
        sent, metadata = _announced(method, request, self._credentials())
        try:
            response: Message | None = methods[method](sent, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise self._error(method, error) from None
        except ValueError:
            raise FailedPrecondition(_CLOSED) from None
        if response is None:
            raise self._router.no_response(timeout)
        return response

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        future: Future[Message] = Future()
        sent, metadata = _announced(method, request, self._credentials())
        try:
            call = self._ready()[method].future(sent, timeout=timeout, metadata=metadata)
        except FailedPrecondition as error:
            future.set_exception(error)
            return future
        except ValueError:
            future.set_exception(FailedPrecondition(_CLOSED))
            return future

        def finished(call: Any) -> None:
            if not future.set_running_or_notify_cancel():
                return
            if call.code() is not grpc.StatusCode.OK:
                future.set_exception(self._error(method, call))
            elif (response := call.result()) is None:
                future.set_exception(self._router.no_response(timeout))
            else:
                future.set_result(response)

        future.add_done_callback(lambda future: call.cancel() if future.cancelled() else None)
        call.add_done_callback(finished)
        return future

    def watch(self, method: str, request: Message) -> Generator[Any, None, None]:
        """Yield the responses of a stream as they arrive; blocks between them, until the router or `close` ends it.

        Raises MilenaError, FailedPrecondition if this transport is closed.
        """
        try:
            stream = self._ready()[method](request, metadata=self._login())
        except ValueError:
            raise FailedPrecondition(_CLOSED) from None
        self._streams.add(stream)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise self._error(method, error) from None
        finally:
            stream.cancel()

    def _login(self) -> _Metadata | None:
        credentials = self._credentials()
        return None if credentials is None else credentials.call_metadata()

    def close(self) -> None:
        self._router.closed = True
        with self._connecting:
            channel = self._channel
        if channel is not None:
            channel.close()

    def _error(self, method: str, error: Any) -> MilenaError:
        return self._router.error(method, error.code(), error.details(), error.trailing_metadata())


async def _cancel(call: Any) -> None:
    """Cancel `call`, and wait for gRPC to report its end.

    All event loops of a process get their reports through one thread of gRPC. A report to a loop that was closed
    meanwhile, as asyncio.run() does right after the last task, is logged as an error in the loop that runs then.
    gRPC does not signal its last report: the status may arrive before it, and asyncio.run() cancels the task that
    waits for the status too.
    """
    call.cancel()
    with suppress(TimeoutError):
        async with asyncio.timeout(_CANCEL_SECONDS):
            await call.code()
    await asyncio.sleep(_CALL_END_SECONDS)


async def _close_retired(channel: grpc.aio.Channel) -> None:
    """Close a channel after its calls in flight, at the latest after RETIRED_SECONDS."""
    await channel.close(RETIRED_SECONDS)


class AsyncGrpcTransport:
    """An `AsyncTransport` to the router at `address`, for one event loop, and for the next when that is closed.

    `hint`, `certificates` and `credentials` are those of `GrpcTransport`.
    """

    def __init__(
        self,
        address: str,
        hint: str = "",
        certificates: Certificates | None = None,
        credentials: CurrentCredentials = no_credentials,
    ) -> None:
        self._address = address
        self._certificates = certificates
        self._credentials = credentials
        self._number = 0  # of the certificates of the channel
        self._retired: set[Any] = set()  # streams that end because there is a new channel
        self._closing: set[asyncio.Task[None]] = set()
        self._router = _Router(address, hint, certificates)
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}
        self._streams: set[Any] = set()
        self._exchanges: dict[str, Any] = {}  # open streams, by method
        self._home = Home(self._begin_anew)
        reject_patched(sys.modules)
        survive_forks(self)

    def _begin_anew(self) -> None:
        self._channel = None
        self._methods = {}
        self._streams = set()
        self._exchanges = {}

    def forked(self) -> None:
        leak((self._channel, self._methods, self._streams, self._exchanges))
        self._begin_anew()
        self._home.leave_loop()

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        if self._channel is None or not self._home.here():
            self._connect()
        elif self._certificates is not None:
            self._renew(self._certificates)
        sent, metadata = _announced(method, request, self._credentials())
        try:
            response: Message | None = await self._methods[method](sent, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._router.error(method, error.code(), error.details(), error.trailing_metadata()) from None
        except grpc.aio.UsageError:
            raise FailedPrecondition(_CLOSED) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._router.closed or (task is not None and task.cancelling()):
                raise  # the caller gave up
            raise FailedPrecondition(_CLOSED) from None
        if response is None:
            raise self._router.no_response(timeout)
        return response

    async def exchange(self, method: str, request: Message, timeout: float) -> Message:
        """Make a call on a stream that stays open for the next one; one call at a time.

        For a router that has no such stream it is a unary call. Raises MilenaError; the next one opens a new
        stream.
        """
        if self._channel is None or not self._home.here():
            self._connect()
        elif self._certificates is not None:
            self._renew(self._certificates)
        stream = self._exchanges.pop(method, None)
        response: Any = None
        try:
            with self._errors(method):
                async with asyncio.timeout(timeout):
                    if stream is None or stream.done():
                        self._streams.discard(stream)
                        stream = self._methods[method](metadata=self._login())
                        self._streams.add(stream)
                    try:
                        await stream.write(request)
                        response = await stream.read()
                    except grpc.aio.AioRpcError as error:
                        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                            return await self.call(UNARY_OF_EXCHANGE[method], request, timeout)
                        if error.code() is grpc.StatusCode.INTERNAL and not is_response(error.trailing_metadata()):
                            raise self._finished(method) from None  # the stream ended while the request was written
                        raise
        except TimeoutError:
            raise self._router.no_response(timeout) from None
        finally:
            if response is None or response is grpc.aio.EOF:
                self._drop(stream)
            else:
                self._exchanges[method] = stream
        if response is grpc.aio.EOF:
            raise self._finished(method)
        return cast(Message, response)

    async def watch(self, method: str, request: Message) -> AsyncGenerator[Any, None]:
        """Yield the responses of a stream as they arrive, until the router or `close` ends it.

        Raises MilenaError, FailedPrecondition if this transport is closed.
        """
        if self._channel is None or not self._home.here():
            self._connect()
        elif self._certificates is not None:
            self._renew(self._certificates)
        stream = None
        try:
            with self._errors(method):
                stream = self._methods[method](request, metadata=self._login())
                self._streams.add(stream)
                async for response in stream:
                    yield response
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if stream not in self._retired or (task is not None and task.cancelling()):
                raise
            raise self._finished(method) from None
        finally:
            if stream is not None:
                self._streams.discard(stream)
                self._retired.discard(stream)
                await _cancel(stream)

    @contextmanager
    def _errors(self, method: str) -> Iterator[None]:
        """Convert gRPC's exceptions raised inside to MilenaError."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._router.error(method, error.code(), error.details(), error.trailing_metadata()) from None
        except grpc.aio.UsageError:
            raise FailedPrecondition(_CLOSED) from None
        except asyncio.InvalidStateError:
            raise self._finished(method) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._router.closed or (task is not None and task.cancelling()):
                raise  # the caller gave up
            raise FailedPrecondition(_CLOSED) from None

    def _finished(self, method: str) -> Unavailable:
        return _of_connection(Unavailable(f"the router at {self._address} ended the stream of {method}"), NO_REPLY)

    def _drop(self, stream: Any) -> None:
        if stream is not None:
            self._streams.discard(stream)
            stream.cancel()

    def _login(self) -> _Metadata | None:
        credentials = self._credentials()
        return None if credentials is None else credentials.call_metadata()

    async def close(self) -> None:
        self._home.adopt()
        self._router.closed = True
        # Closing the channel ends the calls that it finds in the stacks of tasks, but not those in generators.
        await asyncio.gather(*map(_cancel, self._streams))
        for closing in self._closing:
            closing.cancel()
        if self._channel is not None:
            await self._channel.close()

    def _connect(self) -> None:
        # A channel belongs to the running loop, and a client may be created before there is one.
        if self._router.closed:
            raise FailedPrecondition(_CLOSED)
        self._home.adopt()
        reject_patched(sys.modules)
        use_grpc()
        self._open()

    def _open(self) -> None:
        if self._certificates is not None:
            self._number = self._certificates.number
        self._channel = open_async_channel(self._address, self._certificates)
        self._methods = _methods(self._channel)

    def _renew(self, certificates: Certificates) -> None:
        """Open a new channel if there are new certificates; calls in flight end on the one before."""
        old = self._channel
        if certificates.refreshed(REFRESH_SECONDS).number == self._number or old is None or self._router.closed:
            return
        self._open()
        # An exchange has no request in flight now, and begins anew with the next one.
        for stream in self._exchanges.values():
            self._drop(stream)
        self._exchanges = {}
        self._retired |= self._streams
        for stream in self._retired:
            stream.cancel()
        closing = asyncio.get_running_loop().create_task(_close_retired(old))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
