"""Cache nodes as the router's forwarder sees them, without sockets, on a fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from milena_common.api.errors import MilenaError, NodeLost
from milena_common.resp.identity import Identity
from tests.support.fake_clock import FakeClock

Reply = bytes | MilenaError | Callable[[str, bytes], bytes]


class FakeNode:
    """One node, whatever connection it is called by. `reply` is what it says; None: nothing, ever."""

    def __init__(self, reply: Reply) -> None:
        self.reply: Reply | None = reply
        self.calls: list[tuple[str, bytes, float]] = []
        self.announced: list[int] = []  # the expected size of each reply

    @property
    def requests(self) -> list[bytes]:
        return [request for _, request, _ in self.calls]


class FakeConnection:
    """A `NodeConnection`. What waits when it is closed with no grace is broken off; otherwise it may finish."""

    def __init__(self, node: FakeNode, clock: FakeClock) -> None:
        self._node = node
        self._clock = clock
        self._waiting: set[asyncio.Future[None]] = set()
        self.closed_with: float | None = None

    async def call(self, method: str, request: bytes, timeout: float, response_bytes: int = 0) -> bytes:
        if self.closed_with is not None:
            raise NodeLost("left the ring")
        self._node.calls.append((method, request, timeout))
        self._node.announced.append(response_bytes)
        reply = self._node.reply
        if reply is None:
            await self._silence(timeout)
        if isinstance(reply, MilenaError):
            raise reply
        return reply if isinstance(reply, bytes) else reply(method, request)  # type: ignore[misc]

    async def _silence(self, timeout: float) -> None:
        broken_off = asyncio.get_running_loop().create_future()
        self._waiting.add(broken_off)
        alarm = asyncio.ensure_future(self._clock.sleep(timeout))
        try:
            await asyncio.wait({broken_off, alarm}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
            self._waiting.discard(broken_off)
        if broken_off.done():
            raise NodeLost("left the ring during the call")
        raise NodeLost(f"did not respond within {timeout:.2g} s")

    async def close(self, grace: float) -> None:
        self.closed_with = grace
        if grace:
            await self._clock.sleep(grace)
        for waiting in self._waiting:
            waiting.set_result(None)


class FakeNodes:
    """Makes the connections, and remembers them. `nodes` has every node that was named, `servers` with its servers,
    `identities` as what.

    A node replies with what `first_reply` gives for its address, until a test says otherwise.
    """

    def __init__(self, clock: FakeClock, first_reply: Callable[[str], bytes]) -> None:
        self._clock = clock
        self._first_reply = first_reply
        self.nodes: dict[str, FakeNode] = {}
        self.connections: list[tuple[str, FakeConnection]] = []
        self.identities: dict[str, Identity] = {}
        self.doors: dict[str, Mapping[str, str]] = {}

    def __getitem__(self, address: str) -> FakeNode:
        return self.nodes.setdefault(address, FakeNode(self._first_reply(address)))

    def connect(self, address: str, doors: Mapping[str, str], identity: Identity) -> FakeConnection:
        self.identities[address] = identity
        self.doors[address] = doors
        connection = FakeConnection(self[address], self._clock)
        self.connections.append((address, connection))
        return connection
