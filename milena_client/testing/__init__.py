"""Coordination. Test doubles: the real clients over a cluster that is a dict in memory.

Keys, values, errors, retries and batches behave as in production, because everything but the transport is the
production code, except that the pause before a retry takes no time. `memory_cluster` has the responses. In a test
suite:

    pytest_plugins = ["milena_client.testing"]          # in conftest.py

    def test_report(milena):
        milena.set("a.csv", b"1")
        milena.fail_with(Unavailable("S3 is down"), times=None)
        with pytest.raises(Unavailable): ...

Fixtures: `milena` is a `FakeMilena`, `async_milena` a `FakeAsyncMilena`.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from google.protobuf.message import Message

from milena_client.aio.client import AsyncMilena
from milena_client.core.limits import DEFAULT_TIMEOUT
from milena_client.core.retry import DEFAULT_RETRY, RetryPolicy
from milena_client.core.values import KeyT, Value
from milena_client.sync.client import Milena
from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.errors import MilenaError


class FakeClock:
    """Time that passes only when a thread waits, and then at once. Starts at 0 seconds."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class FakeAsyncClock:
    """As `FakeClock`, for coroutines."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time

    def cpu(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class MemoryTransport:
    """A `Transport` to a `MemoryCluster`."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self.cluster = cluster

    def call(self, method: str, request: Message, timeout: float) -> Message:
        return self.cluster.respond(method, request)

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        future: Future[Message] = Future()
        try:
            future.set_result(self.cluster.respond(method, request))
        except MilenaError as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        self.cluster.closed = True


class AsyncMemoryTransport:
    """An `AsyncTransport` to a `MemoryCluster`."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self.cluster = cluster

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        return self.cluster.respond(method, request)

    async def close(self) -> None:
        self.cluster.closed = True


class FakeMilena(Milena):
    """A `Milena` that needs no cluster: it has one in memory, and a clock that stands still.

    `objects` maps keys to values that are in the bucket from the start, and not yet cached. The other parameters
    are those of `Milena`. The pytest fixture `milena` is one without objects.
    """

    def __init__(
        self,
        objects: Mapping[KeyT, Value] | None = None,
        *,
        bucket: str = "",
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy = DEFAULT_RETRY,
    ) -> None:
        clock = self._clock = FakeClock()
        self._cluster = MemoryCluster(clock.now)
        if objects:
            self._cluster.add(objects)
        super().__init__(
            "fake",
            bucket=bucket,
            timeout=timeout,
            retry=retry,
            transport=MemoryTransport(self._cluster),
            clock=clock,
        )

    def fail_with(self, error: MilenaError, *, times: int | None = 1) -> None:
        """Make the next `times` calls to the cluster fail with `error`; None: all, 0: none any more.

        Calls that are retried count: by default a read survives a few `Unavailable`.
        """
        self._cluster.fail_with(error, times)

    def advance(self, seconds: float) -> None:
        """Move the client's clock by `seconds`: entries grow older, and objects with a time to live expire."""
        self._clock.time += seconds


class FakeAsyncMilena(AsyncMilena):
    """An `AsyncMilena` that needs no cluster: it has one in memory, and a clock that stands still.

    `objects` maps keys to values that are in the bucket from the start, and not yet cached. The other parameters
    are those of `Milena`. The pytest fixture `async_milena` is one without objects.
    """

    def __init__(
        self,
        objects: Mapping[KeyT, Value] | None = None,
        *,
        bucket: str = "",
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy = DEFAULT_RETRY,
    ) -> None:
        clock = self._clock = FakeAsyncClock()
        self._cluster = MemoryCluster(clock.now)
        if objects:
            self._cluster.add(objects)
        super().__init__(
            "fake",
            bucket=bucket,
            timeout=timeout,
            retry=retry,
            transport=AsyncMemoryTransport(self._cluster),
            clock=clock,
        )

    def fail_with(self, error: MilenaError, *, times: int | None = 1) -> None:
        """Make calls fail as `FakeMilena.fail_with` does: the next `times` of them, with `error`."""
        self._cluster.fail_with(error, times)

    def advance(self, seconds: float) -> None:
        """Move the client's clock by `seconds`, as `FakeMilena.advance` does."""
        self._clock.time += seconds


try:
    import pytest
except ImportError:  # the doubles work without it
    pass
else:

    @pytest.fixture(name="milena")
    def _milena() -> FakeMilena:
        """A client of an empty cluster in memory."""
        return FakeMilena()

    @pytest.fixture(name="async_milena")
    def _async_milena() -> FakeAsyncMilena:
        """An async client of an empty cluster in memory."""
        return FakeAsyncMilena()
