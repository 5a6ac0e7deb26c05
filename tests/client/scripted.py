"""Transports that reply with what a test wrote down, and record the requests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from google.protobuf.message import Message

from milena_client.testing import FakeAsyncClock, FakeClock
from milena_common.api.errors import MilenaError
from milena_common.api.pb import router_server_pb2 as pb

Reply = Message | MilenaError
FOUND = pb.GetResponse(successful=True, value=b"v")
WRITTEN = pb.PutResponse(successful=True, etag='"e"', node="n:1", durability="back")


class Script:
    """Replies in order, each after `seconds`; the last one for ever."""

    def __init__(self, clock: FakeClock | FakeAsyncClock, *replies: Reply, seconds: float = 0.0) -> None:
        self.clock = clock
        self.replies = list(replies)
        self.seconds = seconds
        self.timeouts: list[float] = []
        self.requests: list[Message] = []

    def next(self, request: Message, timeout: float) -> Message:
        self.requests.append(request)
        self.timeouts.append(timeout)
        self.clock.time += self.seconds
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, MilenaError):
            raise reply
        return reply


class ScriptedTransport:
    """A `Transport` that replies from a script at once."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def call(self, method: str, request: Message, timeout: float) -> Message:
        return self._script.next(request, timeout)

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        future: Future[Message] = Future()
        try:
            future.set_result(self._script.next(request, timeout))
        except MilenaError as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        pass


class ScriptedAsyncTransport:
    """An `AsyncTransport` that replies from a script at once."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        return self._script.next(request, timeout)

    async def close(self) -> None:
        pass


class ManualTransport:
    """A `Transport` whose started calls stay in flight until the test, in `when_started`, ends them."""

    def __init__(self, when_started: Callable[[ManualTransport], None]) -> None:
        self.flying: list[tuple[Message, Future[Message]]] = []
        self.maximum = 0
        self._when_started = when_started

    def call(self, method: str, request: Message, timeout: float) -> Message:
        raise NotImplementedError

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        future: Future[Message] = Future()
        self.flying.append((request, future))
        self.maximum = max(self.maximum, len(self.flying))
        self._when_started(self)
        return future

    def close(self) -> None:
        pass
