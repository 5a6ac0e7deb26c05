"""Pure. What the client needs of the outside: a way to make calls.

The client decides about keys, retries and batches; a transport carries one request to the cluster and brings
one answer. `milena_common.rpc.channel` has the ones that speak gRPC with a router, `milena_client.testing` the
one that keeps everything in memory. Methods are the names of the router's API ("Get", "Put", …), and requests
and answers its messages.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from google.protobuf.message import Message


class Transport(Protocol):
    """Carries calls for threads. Thread-safe."""

    def call(self, method: str, request: Message, timeout: float) -> Message:
        """The answer, within `timeout` seconds. Raises MilenaError."""

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        """Begin a call and return at once. The future's result is the answer, its exception a MilenaError."""

    def close(self) -> None:
        """End the connection. Calls made afterwards raise FailedPrecondition."""


class AsyncTransport(Protocol):
    """Carries calls for one event loop."""

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        """The answer, within `timeout` seconds. Raises MilenaError."""

    async def close(self) -> None:
        """End the connection. Calls made afterwards raise FailedPrecondition."""


class ExchangingTransport(AsyncTransport, Protocol):
    """Carries calls of one method on a stream that stays open too, where other calls do not hold them up."""

    async def exchange(self, method: str, request: Message, timeout: float) -> Message:
        """Return the answer, within `timeout` seconds; one at a time. Raises MilenaError."""
