"""Shell. The gRPC server of a process: binding, health, limits, and one wrapper around every method.

The wrapper converts errors to statuses, so that no method can fail with UNKNOWN, and counts calls. There is one for
unary methods, one for unary methods whose requests may be large, one for streams of responses, and one for
exchanges: streams on which each request gets its response in turn. `value_streams` has those for objects in pieces.

gRPC receives the whole request before it calls a method that is registered as unary, whatever its size and the
number of such calls. So methods with large requests are registered as taking a stream of requests, which is the
same on the wire: their handler runs before anything is received, takes the bytes from the process's budget, and
only then receives. A rejected request is not received at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from milena_common.access.access import Access
from milena_common.access.api_guard import ApiGuard
from milena_common.access.principals import EVERYONE, Principal
from milena_common.api.credentials import AUTHORIZATION, END_USER_METADATA
from milena_common.api.errors import MilenaError
from milena_common.api.methods import LARGE_REQUESTS
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, ENVELOPE_BYTES, SMALL_BYTES, CallBytes
from milena_common.metrics.call_counts import CallCounts, OperationCounts
from milena_common.network.addresses import Address
from milena_common.network.listening import CannotListen, check_free
from milena_common.resp.identity import METADATA, Identity
from milena_common.rpc.calls import (
    PORT,
    Caller,
    Calls,
    Message,
    Method,
    StreamMethod,
    Streams,
    parse,
    reject,
    remaining_seconds,
    write,
)
from milena_common.rpc.opening import bind_port, bind_tls_port
from milena_common.rpc.options import server_options
from milena_common.rpc.pieces import PieceMethods
from milena_common.rpc.receive import Receive
from milena_common.rpc.value_streams import (
    max_readers,
    max_writers,
    read_handler,
    write_handler,
)
from milena_common.runtime.deadlines import time_for_room
from milena_common.tls.certificates import Certificates
from milena_common.tls.peer import of_grpc

log = logging.getLogger(__name__)

# Calls in flight at once. Beyond it gRPC itself replies RESOURCE_EXHAUSTED, which bounds memory under overload.
MAX_CONCURRENT_CALLS = 4096
# The part of a stop's time for streams whose readers no longer read, so that not even the end of the stream can be
# sent.
STREAM_SECONDS = 0.5


# gRPC logs this, with a traceback, when the caller has gone before the response is sent, and the failure to send is
# noticed before that.
_GRPC_LOG = logging.getLogger("grpc._cython.cygrpc")
_CALLER_GONE = "ExecuteBatchError raised in core by servicer method"


def _is_defect(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_CALLER_GONE)


# Raises WrongNode if the call is meant for another process.
Check = Callable[[Identity], None]
# Called with the last request of an exchange that has ended.
OnClosed = Callable[[Any], None]

# Cached handlers of calls that name the process they are meant for, by method and name. All callers of a process
# use the same name; 64 names of 16 KiB, the limit of metadata, are a megabyte.
MAX_CHECKED_HANDLERS = 256
# Logins that are known, by what they send.
MAX_PRINCIPALS = 1024
NO_PIECES = PieceMethods()


def _handler(
    method: Method,
    request: type[Message],
    counts: OperationCounts,
    calls: Calls,
    budget: ByteBudget,
    check: Callable[[], None] | None,
    caller: Caller | None,
) -> Handler:
    async def response(received: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        started = time.perf_counter()
        counts.requests += 1
        calls.begin()
        try:
            if check is not None:
                check()
            remaining = remaining_seconds(context)
            if len(received) > SMALL_BYTES:
                await CallBytes(budget).take(COPIES * len(received), time_for_room(remaining))
                remaining = remaining_seconds(context)
            if caller is None:
                return await method(parse(request, received), remaining)
            parsed = parse(request, received)
            allowed = caller.authorize(parsed, context)
            return caller.finished(allowed, len(received), await method(parsed, remaining))
        except asyncio.CancelledError:
            counts.count_error("cancelled")
            raise
        except Exception as error:
            problem = error
        finally:
            calls.end()
            counts.durations.observe(time.perf_counter() - started)
        reject(problem, context, counts)
        return b""  # sent as it is; clients ignore the message of a failed call

    # gRPC replies UNKNOWN if a deserializer fails, so it gets none, and passes the bytes on.
    return grpc.unary_unary_rpc_method_handler(response)


def _large_handler(
    method: Method,
    request: type[Message],
    counts: OperationCounts,
    calls: Calls,
    receive: Receive,
    check: Callable[[], None] | None,
    caller: Caller | None,
) -> Handler:
    """Return the handler of a method whose requests may be large: nothing is received before there is room."""

    async def response(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        started = time.perf_counter()
        counts.requests += 1
        calls.begin()
        try:
            if check is not None:
                check()
            received = await receive(context, remaining_seconds(context))
            if caller is not None:
                parsed, size = parse(request, received), len(received)
                allowed = caller.authorize(parsed, context)
                working = method(parsed, remaining_seconds(context))
                del received, parsed  # as below
                return caller.finished(allowed, size, await working)
            # No variable here refers to the message, so that the method can release it early.
            working = method(parse(request, received), remaining_seconds(context))
            del received
            return await working
        except asyncio.CancelledError:
            counts.count_error("cancelled")
            raise
        except Exception as error:
            problem = error
        finally:
            calls.end()
            counts.durations.observe(time.perf_counter() - started)
        reject(problem, context, counts)
        return b""  # as above

    return grpc.stream_unary_rpc_method_handler(response)


def _stream_handler(
    method: StreamMethod,
    request: type[Message],
    counts: OperationCounts,
    streams: Streams,
    check: Callable[[], None] | None,
    caller: Caller | None,
) -> Handler:
    del check  # a stream is for any process of its service

    async def response(received: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        started = time.perf_counter()
        counts.requests += 1
        responded = False
        try:
            with streams:
                parsed = parse(request, received)
                if caller is not None:
                    caller.authorize(parsed, context)
                async with aclosing(method(parsed, context.time_remaining())) as messages:
                    async for message in messages:
                        if not responded:
                            # The time to the first response is recorded; the length of a stream is not a latency.
                            counts.durations.observe(time.perf_counter() - started)
                            responded = True
                        await write(context, message)
                return
        except asyncio.CancelledError:
            # A stream that is open until its caller goes ends this way.
            if not responded:
                counts.count_error("cancelled")
            raise
        except Exception as error:
            problem = error
        if not responded:
            counts.durations.observe(time.perf_counter() - started)
        reject(problem, context, counts)

    return grpc.unary_stream_rpc_method_handler(response)


def _exchange_handler(
    method: Method,
    request: type[Message],
    counts: OperationCounts,
    streams: Streams,
    stopping: asyncio.Event,
    on_closed: OnClosed | None,
    check: Callable[[], None] | None,
    caller: Caller | None,
) -> Handler:
    """Return a handler that calls `method` for each request of the stream; a failure ends it, with its status.

    `check` is not for streams.

    `ended` is called with the last request when the stream ends for another reason than a stop of this process.
    """

    del check

    async def response(requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        stopped = asyncio.ensure_future(stopping.wait())
        reading: asyncio.Future[Any] | None = None
        last: Any = None
        try:
            with streams:
                while True:
                    reading = asyncio.ensure_future(context.read())
                    await asyncio.wait((reading, stopped), return_when=asyncio.FIRST_COMPLETED)
                    if not reading.done() or (received := reading.result()) is grpc.aio.EOF:
                        return
                    started = time.perf_counter()
                    counts.requests += 1
                    try:
                        parsed = parse(request, received)
                        if caller is not None:
                            caller.authorize(parsed, context)
                        last = parsed
                        message = await method(parsed, None)
                    finally:
                        counts.durations.observe(time.perf_counter() - started)
                    await write(context, message)
        except Exception as error:
            problem = error
        finally:
            stopped.cancel()
            if reading is not None:
                reading.cancel()
            if on_closed is not None and last is not None and not stopping.is_set():
                on_closed(last)
        reject(problem, context, counts)

    return grpc.stream_stream_rpc_method_handler(response)


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
# Returns the handler of a method for a caller, which calls the given function before everything else.
MakeHandler: TypeAlias = "Callable[[Callable[[], None] | None, Caller | None], Handler]"


class _Handlers(grpc.GenericRpcHandler):
    """The handlers of one service, by path.

    gRPC decodes a call's metadata to choose the handler, and a second time, in 3 µs, for a handler that reads it.
    So the identity, the login and the end user in the metadata are part of the choice: there is a handler for each
    that occurs.

    Callers that have not logged in get handlers that read no message, so that they cannot fill the memory.
    """

    def __init__(
        self,
        makers: Mapping[str, MakeHandler],
        counts: Mapping[str, OperationCounts],
        check: Check | None,
        guard: ApiGuard | None,
    ) -> None:
        self._makers = makers
        self._counts = counts
        self._check = check
        self._guard = guard
        self._open = guard is None or guard.access.is_open
        self._unchecked = {path: self._make(path, "", EVERYONE) for path in makers}
        self._checked: dict[tuple[str, str, str, str], Handler] = {}
        self._principals: dict[str, Principal] = {}
        if guard is not None:
            guard.access.on_change.append(self.users_changed)

    def users_changed(self) -> None:
        """Have every caller log in anew."""
        self._checked.clear()
        self._principals.clear()

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a call, None if the service has no such method."""
        if self._check is None and self._open:
            return self._unchecked.get(details.method)
        meant = login = end_user = ""
        for name, text in details.invocation_metadata:
            if name == METADATA:
                meant = str(text)
            elif self._open:
                continue
            elif name == AUTHORIZATION:
                login = str(text)
            elif name == END_USER_METADATA:
                end_user = text.decode(errors="replace") if isinstance(text, bytes) else text
        if self._open and not meant:
            return self._unchecked.get(details.method)
        chosen = details.method, meant, login, end_user
        return self._checked.get(chosen) or self._checking(*chosen)

    def _checking(self, path: str, meant: str, login: str, end_user: str) -> Handler | None:
        if path not in self._makers:
            return None
        if self._open or self._guard is None:
            principal = EVERYONE
        elif login:
            known = self._principals.get(login)
            if known is None:
                return self._logging_in(path, meant, login, end_user, self._guard.access)
            principal = known
        else:
            principal = self._guard.access.anonymous
            if not principal.authenticated:
                return self._logging_in(path, meant, login, end_user, self._guard.access)
        if len(self._checked) >= MAX_CHECKED_HANDLERS:
            self._checked.clear()
        handler = self._checked[path, meant, login, end_user] = self._make(path, meant, principal, end_user)
        return handler

    def _make(self, path: str, meant: str, principal: Principal, end_user: str = "") -> Handler:
        check = partial(self._check, Identity.from_metadata(meant)) if meant and self._check is not None else None
        method, guard = path.rpartition("/")[2], self._guard
        needs_caller = (
            principal.guard is not None or bool(end_user) or (guard is not None and guard.records(method))
        )
        caller = Caller(guard, principal, method, end_user) if guard is not None and needs_caller else None
        return self._makers[path](check, caller)

    def _logging_in(self, path: str, meant: str, login: str, end_user: str, access: Access) -> Handler:
        """Return a handler that logs the caller in, and reads its message and makes the call then."""
        counts = self._counts[path]

        async def response(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            try:
                certificate = None if login else of_grpc(context.auth_context())
                principal = access.principal_of(certificate.names if certificate is not None else ())
                if login or not principal.authenticated:
                    principal = await self._log_in(login, context.peer(), access)
            except MilenaError as error:
                counts.requests += 1
                reject(error, context, counts)
                return
            if login:
                if len(self._principals) >= MAX_PRINCIPALS:
                    self.users_changed()
                self._principals[login] = principal
            handler: Any = self._make(path, meant, principal, end_user)
            if handler.request_streaming:
                request = requests
            elif (request := await context.read()) is grpc.aio.EOF:
                return
            if handler.unary_unary or handler.stream_unary:
                await context.write(await (handler.unary_unary or handler.stream_unary)(request, context))
            else:
                await (handler.unary_stream or handler.stream_stream)(request, context)

        return grpc.stream_stream_rpc_method_handler(response)

    async def _log_in(self, login: str, address: str, access: Access) -> Principal:
        if not login:
            raise access.missing(address, PORT)
        seconds = access.wait(address, PORT)
        if seconds:
            await asyncio.sleep(seconds)
        return access.login_header(login, address, PORT, waited=bool(seconds))


class GrpcServer:
    """A gRPC server with one service, named `service`, and the standard health service.

    `budget` bounds the bytes of requests and responses in flight: calls wait for theirs before they are received,
    within their deadline or `request_timeout` seconds, and are rejected after that. `max_streams` bounds the open
    streams, `max_exchanges` the open exchanges; the three limits are independent. `check` raises WrongNode for
    calls that are meant for another node. `guard` decides what callers may do; None: everything.
    `verifies_clients`: True if a port of it demands certificates.
    """

    def __init__(
        self,
        service: str,
        max_value_bytes: int,
        budget: ByteBudget,
        request_timeout: float,
        max_streams: int = 0,
        max_exchanges: int = 0,
        check: Check | None = None,
        guard: ApiGuard | None = None,
        verifies_clients: bool = False,
    ) -> None:
        self._service = service
        self._check = check
        self._guard = guard
        self._budget = budget
        self._receive = Receive(budget, max_value_bytes + ENVELOPE_BYTES, request_timeout)
        self._calls = Calls()
        self._streams = Streams(max_streams)
        self._exchanges = Streams(max_exchanges)
        self._readers = Streams(max_readers(budget))
        self._writers = Streams(max_writers(budget))
        self._stopping = asyncio.Event()
        self._health = health.HealthServicer()
        _GRPC_LOG.addFilter(_is_defect)
        self._server = grpc.aio.server(
            options=server_options(max_value_bytes, verifies_clients=verifies_clients),
            maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS + max_streams + max_exchanges,
        )

    def bind(self, address: Address, variable: str, certificates: Certificates | None = None) -> Address:
        """Bind a port, and return the address with the real one. Raises CannotListen, naming `variable`.

        `certificates`: encrypt its connections; None: plain ones.
        """
        check_free(address, variable)
        try:
            if certificates is None:
                port = bind_port(self._server, address)
            else:
                port = bind_tls_port(self._server, address, certificates)
        except RuntimeError as error:
            raise CannotListen(f"{variable}: cannot listen on {address}: {error}") from None
        return Address(address.host, port)

    async def start(
        self,
        methods: Mapping[str, tuple[str, type[Message], Method]],
        counts: CallCounts,
        streams: Mapping[str, tuple[str, type[Message], StreamMethod]] = MappingProxyType({}),
        exchanges: Mapping[str, tuple[str, type[Message], Method]] = MappingProxyType({}),
        exchange_closed: OnClosed | None = None,
        pieces: PieceMethods = NO_PIECES,
    ) -> None:
        """Start to serve calls. `methods` maps a name to (operation name for the counts, request class, method).

        `streams` does the same for methods that end by themselves when the process stops, and `exchanges` for
        methods that are called for each request of a stream. `exchange_ended` is called with the last request of
        such a stream when its caller has ended it, or is gone. `pieces` are methods that return or take one object
        in pieces.
        """
        makers: dict[str, MakeHandler] = {
            name: partial(_large_handler, method, request, counts[operation], self._calls, self._receive)
            if name in LARGE_REQUESTS
            else partial(_handler, method, request, counts[operation], self._calls, self._budget)
            for name, (operation, request, method) in methods.items()
        }
        makers |= {
            name: partial(_stream_handler, method, request, counts[operation], self._streams)
            for name, (operation, request, method) in streams.items()
        }
        makers |= {
            name: partial(
                _exchange_handler,
                method,
                request,
                counts[operation],
                self._exchanges,
                self._stopping,
                exchange_closed,
            )
            for name, (operation, request, method) in exchanges.items()
        }
        makers |= {
            name: partial(read_handler, method, request, counts[operation], self._calls, self._readers)
            for name, (operation, request, method) in pieces.reads.items()
        }
        makers |= {
            name: partial(
                write_handler, method, request, counts[operation], self._calls, self._writers, self._budget
            )
            for name, (operation, request, method) in pieces.writes.items()
        }
        described = (
            *methods.items(),
            *streams.items(),
            *exchanges.items(),
            *pieces.reads.items(),
            *pieces.writes.items(),
        )
        counted = {name: counts[operation] for name, (operation, _, _) in described}
        handlers = _Handlers(
            {f"/{self._service}/{name}": make for name, make in makers.items()},
            {f"/{self._service}/{name}": each for name, each in counted.items()},
            self._check,
            self._guard,
        )
        self._server.add_generic_rpc_handlers((handlers,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        await self._server.start()
        await self.set_serving(True)

    async def set_serving(self, serving: bool) -> None:
        """Set the state that the health service reports, for the process ("") and for the service by name."""
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set("", state)
        await self._health.set(self._service, state)

    async def stop(self, grace: float) -> None:
        """Accept no new calls, and give those in flight `grace` seconds to finish. Does not wait for streams."""
        self._stopping.set()
        stopping = asyncio.ensure_future(self._server.stop(grace))
        if self._streams.open or self._exchanges.open:
            idle = asyncio.ensure_future(self._calls.none())
            await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            await asyncio.wait((stopping,), timeout=STREAM_SECONDS)
            if not stopping.done():
                stopping.cancel()
                await asyncio.wait((stopping,))
                await self._server.stop(None)
        else:
            await stopping
