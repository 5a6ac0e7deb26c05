"""Pure. The Protocols by which a client makes calls.

The client decides about keys, retries and batches; a transport carries one request to the cluster and returns one
response. `milena_common.rpc.channel` has those that speak gRPC with a router, `milena_client.testing` the one that
keeps everything in memory. Methods are named as in the router's API ("Get", "Put", …), and requests and responses
are its messages.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from google.protobuf.message import Message


class Transport(Protocol):
    """Carries calls for threads. Thread-safe."""

    def call(self, method: str, request: Message, timeout: float) -> Message:
        """Return the response within `timeout` seconds. Raises MilenaError."""

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        """Start a call and return at once. The future's result is the response, its exception a MilenaError."""

    def close(self) -> None:
        """Close the connection. Later calls raise FailedPrecondition."""


class AsyncTransport(Protocol):
    """Carries calls for one event loop."""

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        """Return the response within `timeout` seconds. Raises MilenaError."""

    async def close(self) -> None:
        """Close the connection. Later calls raise FailedPrecondition."""


class ExchangingTransport(AsyncTransport, Protocol):
    """Also carries calls of one method on a stream that stays open, where other calls do not delay them."""

    async def exchange(self, method: str, request: Message, timeout: float) -> Message:
        """Return the response within `timeout` seconds; one call at a time. Raises MilenaError."""
