"""Shell. Transports to several equal routers: calls go to one of them, and to the next one when it fails.

Which router a process begins with is random, so that clients spread. A call that was certainly not sent, since
there is no connection, is tried at each router once. After any other failure of a connection the next call goes to
the next router, and the caller decides whether to repeat the failed one: a write may have been made.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Generator, Sequence
from concurrent.futures import Future
from typing import Any

from google.protobuf.message import Message

from milena_common.api.credentials import CurrentCredentials, no_credentials
from milena_common.api.errors import MilenaError
from milena_common.rpc.channel import NOT_SENT, AsyncGrpcTransport, GrpcTransport, connection_failure
from milena_common.tls.certificates import Certificates


def router_transport(
    addresses: str,
    hint: str = "",
    certificates: Certificates | None = None,
    credentials: CurrentCredentials = no_credentials,
) -> GrpcTransport | FailoverTransport:
    """Return a transport for threads to the routers at `addresses`: host:port, separated by commas.

    `hint`, `certificates` and `credentials` are those of `GrpcTransport`.
    """
    found = [GrpcTransport(address, hint, certificates, credentials) for address in addresses.split(",")]
    return found[0] if len(found) == 1 else FailoverTransport(found)


def async_router_transport(
    addresses: str,
    hint: str = "",
    certificates: Certificates | None = None,
    credentials: CurrentCredentials = no_credentials,
) -> AsyncGrpcTransport | AsyncFailoverTransport:
    """Return the same for an event loop."""
    found = [AsyncGrpcTransport(address, hint, certificates, credentials) for address in addresses.split(",")]
    return found[0] if len(found) == 1 else AsyncFailoverTransport(found)


class _Choice:
    """The place of the transport in use, of `number`. Takes no lock: at worst one router is passed over."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.place = random.randrange(number)

    def leaves(self, place: int, error: MilenaError) -> bool:
        """Go on to the next place if the connection of this one failed; return True if nothing was sent."""
        failure = connection_failure(error)
        if place == self.place and failure:
            self.place = (place + 1) % self.number
        return failure == NOT_SENT


class FailoverTransport:
    """A `Transport`, and streams, over `transports`, which it closes."""

    def __init__(self, transports: Sequence[GrpcTransport]) -> None:
        self._transports = transports
        self._choice = _Choice(len(transports))

    def call(self, method: str, request: Message, timeout: float) -> Message:
        for attempt in range(self._choice.number):
            place = self._choice.place
            try:
                return self._transports[place].call(method, request, timeout)
            except MilenaError as error:
                if not self._choice.leaves(place, error) or attempt + 1 == self._choice.number:
                    raise
        raise AssertionError

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        result: Future[Message] = Future()

        def begin(attempts: int) -> None:
            place = self._choice.place
            call = self._transports[place].start(method, request, timeout)
            result.add_done_callback(lambda done: call.cancel() if done.cancelled() else None)

            def finished(call: Future[Message]) -> None:
                if call.cancelled() or result.cancelled():
                    return
                error = call.exception()
                if isinstance(error, MilenaError) and self._choice.leaves(place, error) and attempts > 1:
                    begin(attempts - 1)
                elif result.set_running_or_notify_cancel():
                    if error is not None:
                        result.set_exception(error)
                    else:
                        result.set_result(call.result())

            call.add_done_callback(finished)

        begin(self._choice.number)
        return result

    def watch(self, method: str, request: Message) -> Generator[Any, None, None]:
        """As `GrpcTransport.watch`, at one of the routers; the next stream is at the next one."""
        place = self._choice.place
        try:
            yield from self._transports[place].watch(method, request)
        except MilenaError as error:
            self._choice.leaves(place, error)
            raise

    def close(self) -> None:
        for transport in self._transports:
            transport.close()


class AsyncFailoverTransport:
    """An `AsyncTransport`, and streams, over `transports`, which it closes."""

    def __init__(self, transports: Sequence[AsyncGrpcTransport]) -> None:
        self._transports = transports
        self._choice = _Choice(len(transports))

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        for attempt in range(self._choice.number):
            place = self._choice.place
            try:
                return await self._transports[place].call(method, request, timeout)
            except MilenaError as error:
                if not self._choice.leaves(place, error) or attempt + 1 == self._choice.number:
                    raise
        raise AssertionError

    async def watch(self, method: str, request: Message) -> AsyncGenerator[Any, None]:
        """As `AsyncGrpcTransport.watch`, at one of the routers; the next stream is at the next one."""
        place = self._choice.place
        try:
            async for response in self._transports[place].watch(method, request):
                yield response
        except MilenaError as error:
            self._choice.leaves(place, error)
            raise

    async def close(self) -> None:
        for transport in self._transports:
            await transport.close()
