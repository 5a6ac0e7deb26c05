"""Shell. A client for etcd over gRPC: transactions, ranges and watches, each within a bounded time.

It uses one endpoint at a time, and goes on to the next one after any failure of a connection or a call. What the
stock clients get wrong, and tests hold here against a real etcd:

- The end of a watch has the status INTERNAL over TLS, and UNAVAILABLE without: every status ends it here.
- A watch of revisions that were compacted is cancelled on a stream that stays open, with revision 0 in its header.
- A watch on a member that hangs, or is cut off from the others, says nothing. So every call demands a member that
  has a leader (`hasleader`), a watch requests a sign of life every second, and ends after three without any.
- The revision in such a sign may be ahead of events that are still to come (etcd#15220, before 3.4.25), so it does
  not count as seen.
- A token is valid for some minutes and on the member that gave it: an invalid one is replaced, and the call, which
  etcd has certainly not carried out, is made once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import grpc

from milena_common.api.pb import etcd_pb2 as pb
from milena_common.network.addresses import Address
from milena_common.rpc.opening import open_async_channel, open_tls_channel
from milena_common.runtime.clock import Clock
from milena_router.etcd.errors import Compacted, EtcdError
from milena_router.etcd.security import EtcdSecurity

log = logging.getLogger(__name__)

# Seconds for a connection, and for one attempt of a call that may be repeated elsewhere.
CONNECT_SECONDS = 1.0
ATTEMPT_SECONDS = 1.5
# The pause when no endpoint accepts a connection.
RETRY_SECONDS = 0.1
# A watch requests a sign of life so often, and ends when it has had none for so long.
PROGRESS_SECONDS = 1.0
SILENCE_SECONDS = 3.0

_LEADER = ("hasleader", "true")
# Statuses by which etcd rejects a request that it has not carried out.
_REJECTIONS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
}
_UNARY: Mapping[str, tuple[str, Any, Any]] = {
    "Range": ("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse),
    "Txn": ("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse),
    "Authenticate": ("/etcdserverpb.Auth/Authenticate", pb.AuthenticateRequest, pb.AuthenticateResponse),
}


class Changes(NamedTuple):
    """Events of one revision or several, in order; `revision` is the last one's, 0 without events.

    It is not that of the response's header, which may be ahead of events that come with the next response.
    """

    events: Sequence[pb.Event]
    revision: int


class EtcdClient:
    """The calls, for one event loop.

    endpoint: the address in use
    rotations: how often a failure made it go on to another endpoint, or to the same one with a new connection
    """

    def __init__(self, endpoints: Sequence[Address], security: EtcdSecurity, clock: Clock) -> None:
        self.rotations = 0
        self._endpoints = [str(endpoint) for endpoint in endpoints]
        self._place = 0
        self._security = security
        self._clock = clock
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return self._endpoints[self._place]

    async def range(self, request: pb.RangeRequest, timeout: float) -> pb.RangeResponse:
        """Read, at another endpoint if one fails. Raises EtcdError within `timeout` seconds."""
        deadline = self._clock.now() + timeout
        while True:
            left = deadline - self._clock.now()
            try:
                response: pb.RangeResponse = await self._call("Range", request, min(left, ATTEMPT_SECONDS))
                return response
            except EtcdError as error:
                if not error.maybe_done or deadline - self._clock.now() < ATTEMPT_SECONDS / 10:
                    raise

    async def txn(self, request: pb.TxnRequest, timeout: float) -> pb.TxnResponse:
        """Carry out a transaction, at most once. Raises EtcdError within `timeout` seconds."""
        response: pb.TxnResponse = await self._call("Txn", request, timeout)
        return response

    async def watch(self, key: bytes, range_end: bytes, revision: int) -> AsyncGenerator[Changes, None]:
        """Yield the changes of keys from `revision` on. Raises EtcdError at its end, whatever the reason.

        Raises Compacted if they do not exist any more. Yields one without events when etcd has confirmed the watch.
        """
        connection = await self._connected(CONNECT_SECONDS * len(self._endpoints))
        stream = connection.watch(connection.metadata())
        responded_at = self._clock.now()
        reading: asyncio.Future[Any] | None = None
        try:
            create = pb.WatchCreateRequest(key=key, range_end=range_end, start_revision=revision)
            await asyncio.wait_for(stream.write(pb.WatchRequest(create_request=create)), SILENCE_SECONDS)
            while True:
                reading = reading or asyncio.ensure_future(stream.read())
                await asyncio.wait((reading,), timeout=PROGRESS_SECONDS)
                if not reading.done():
                    if self._clock.now() - responded_at >= SILENCE_SECONDS:
                        raise self._lost(connection, f"the watch has been silent for {SILENCE_SECONDS:g} s")
                    progress = pb.WatchRequest(progress_request=pb.WatchProgressRequest())
                    await asyncio.wait_for(stream.write(progress), SILENCE_SECONDS)
                    continue
                if reading.cancelled():
                    raise self._lost(connection, "the connection was closed")
                response, reading = reading.result(), None
                if response is grpc.aio.EOF:
                    raise self._lost(connection, "the watch was closed")
                responded_at = self._clock.now()
                if response.canceled:
                    if response.compact_revision:
                        raise Compacted(response.compact_revision)
                    connection.token = ""  # the reason may be a token that is not valid any more
                    raise EtcdError(
                        f"etcd at {connection.endpoint}: the watch is rejected: {response.cancel_reason}"
                    )
                if response.created or response.events:
                    revision = max((event.kv.mod_revision for event in response.events), default=0)
                    yield Changes(response.events, revision)
        except grpc.aio.AioRpcError as error:
            raise self._failed(connection, error, True) from None
        except (TimeoutError, asyncio.InvalidStateError, grpc.aio.UsageError):
            raise self._lost(connection, "the watch broke") from None
        finally:
            stream.cancel()
            if reading is not None:
                reading.cancel()
            # Until gRPC has reported the end: a report to a loop that was closed meanwhile is logged as an error.
            with suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await stream.code()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._close(connection)
        await asyncio.gather(*self._closing)

    async def _call(self, method: str, request: Any, timeout: float) -> Any:
        """Make a call at the present endpoint. Raises EtcdError."""
        deadline = self._clock.now() + timeout
        for attempt in (1, 2):
            connection = await self._connected(deadline - self._clock.now())
            try:
                return await connection.call(method, request, deadline - self._clock.now())
            except grpc.aio.AioRpcError as error:
                if attempt == 1 and connection.rejects_token(error):
                    connection.token = ""
                    continue
                raise self._failed(connection, error, True) from None
            except (asyncio.CancelledError, grpc.aio.UsageError):
                task = asyncio.current_task()
                if connection.open or (task is not None and task.cancelling()):
                    raise  # the caller gave up
                # Another call failed, and closed the connection of both.
                raise EtcdError(f"etcd at {connection.endpoint}: the connection was given up", True) from None
        raise AssertionError

    async def _connected(self, timeout: float) -> _Connection:
        """Return a connection that is ready for calls, to the first endpoint that has one. Raises EtcdError."""
        deadline = self._clock.now() + timeout
        reason = "no endpoint was tried in time"
        try:
            async with asyncio.timeout(max(timeout, 0.0)):
                await self._connecting.acquire()
        except TimeoutError:
            raise EtcdError(f"etcd cannot be reached: {reason}") from None
        try:
            tried = 0
            # Not by a second `asyncio.timeout`: the inner one, at the same time, may swallow its only cancellation.
            while (left := deadline - self._clock.now()) > 0:
                if tried and tried % len(self._endpoints) == 0:
                    await self._clock.sleep(min(RETRY_SECONDS, left))
                tried += 1
                connection = self._connection
                if connection is None:
                    connection = self._connection = _Connection(self.endpoint, self._security)
                try:
                    limit = min(CONNECT_SECONDS, left)
                    await asyncio.wait_for(connection.ready(self._security, limit), limit)
                    return connection
                except (TimeoutError, grpc.aio.UsageError):
                    reason = f"{connection.endpoint} does not accept a connection"
                    self._rotate(connection)
                except grpc.aio.AioRpcError as error:
                    if error.code() in _REJECTIONS:
                        raise self._failed(connection, error, False) from None
                    reason = f"{connection.endpoint}: {error.details()}"
                    self._rotate(connection)
        finally:
            self._connecting.release()
        raise EtcdError(f"etcd cannot be reached: {reason}")

    def _failed(self, connection: _Connection, error: grpc.aio.AioRpcError, sent: bool) -> EtcdError:
        """Return the error of a failed call, and leave the endpoint unless that has just rejected the request."""
        rejected = error.code() in _REJECTIONS
        if not rejected:
            self._rotate(connection)
        details = (error.details() or "").removeprefix("etcdserver: ")
        text = f"etcd at {connection.endpoint}: {error.code().name}: {details[:300]}"
        return EtcdError(text, sent and not rejected)

    def _lost(self, connection: _Connection, reason: str) -> EtcdError:
        self._rotate(connection)
        return EtcdError(f"etcd at {connection.endpoint}: {reason}")

    def _rotate(self, connection: _Connection) -> None:
        """Go on to the next endpoint, unless another call has done so already."""
        if self._connection is connection:
            self._connection = None
            self._place = (self._place + 1) % len(self._endpoints)
            self.rotations += 1
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        connection.open = False
        task = asyncio.get_running_loop().create_task(connection.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Connection:
    """A connection to one endpoint. Raises EtcdError if the files of the TLS settings cannot be read."""

    def __init__(self, endpoint: str, security: EtcdSecurity) -> None:
        self.endpoint = endpoint
        self.open = True
        self.token = ""
        self._channel = (
            open_tls_channel(endpoint, *security.files()) if security.tls else open_async_channel(endpoint)
        )
        self._methods = {
            name: self._channel.unary_unary(
                path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
            )
            for name, (path, request, response) in _UNARY.items()
        }
        self._watch = self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )

    async def ready(self, security: EtcdSecurity, timeout: float) -> None:
        """Wait for the connection, and log in. Raises AioRpcError, TimeoutError if it is rejected."""
        state = self._channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                raise TimeoutError
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state(try_to_connect=True)
        if security.username and not self.token:
            request = pb.AuthenticateRequest(name=security.username, password=security.password())
            response = await self._methods["Authenticate"](
                request, timeout=max(timeout, 0.001), metadata=(_LEADER,)
            )
            self.token = response.token

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (_LEADER, ("token", self.token)) if self.token else (_LEADER,)

    def rejects_token(self, error: grpc.aio.AioRpcError) -> bool:
        """True if the token is not, or not any more, valid at this member."""
        if not self.token:
            return False
        details = error.details() or ""
        return error.code() is grpc.StatusCode.UNAUTHENTICATED or "revision of auth store is old" in details

    async def call(self, method: str, request: Any, timeout: float) -> Any:
        return await self._methods[method](request, timeout=max(timeout, 0.001), metadata=self.metadata())

    def watch(self, metadata: tuple[tuple[str, str], ...]) -> Any:
        return self._watch(metadata=metadata)

    async def close(self) -> None:
        await self._channel.close()
