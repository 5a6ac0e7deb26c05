"""A cluster whose nodes can be called without the router between: fake nodes, and a router that gives its ring."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import grpc
from google.protobuf.message import Message

from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.errors import FailedPrecondition
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slots import SLOTS
from tests.client.router import UNARY, router
from tests.support.fake_resp_node import FakeRespNode
from tests.support.waiting import wait_until

# Keys in the slots of every node, if there are up to four: of the four parts of the slots in ascending order.
WARM = ("warm/2", "warm/3", "warm/0", "warm/1")


class DirectCluster:
    """A memory cluster behind `number` fake nodes and a router, for use in a with statement.

    `requested` are the methods that the router was called with, `watched` counts those who followed its ring.
    `rejects`: it withholds its ring.
    """

    def __init__(self, number: int = 2, *, rejects: bool = False) -> None:
        self._cluster = MemoryCluster(lambda: 0.0)
        self._lock = threading.Lock()
        self._rejects = rejects
        self._stack = ExitStack()
        self._router = ExitStack()
        self._watchers: list[SimpleQueue[pb.RingUpdate | None]] = []
        self.requested: list[str] = []
        self.watched = 0
        self.nodes = [FakeRespNode(self.reply) for _ in range(number)]
        self._epoch = 0
        self.update = pb.RingUpdate()

    def reply(self, method: str, request: Any) -> Message:
        with self._lock:
            return self._cluster.respond(method, request)

    def __enter__(self) -> DirectCluster:
        self.give_slots(*self.nodes)
        self._stack.callback(self.stop_router)

        def reply(method: str, request: Any, _: Any) -> Message:
            self.requested.append(method)
            return self.reply(method, request)

        self.address = self._router.enter_context(router(reply, UNARY, watch=self._watch))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for node in self.nodes:
            node.close()

    def _watch(self, context: grpc.ServicerContext) -> Iterator[pb.RingUpdate]:
        if self._rejects:
            raise FailedPrecondition("DIRECT_ACCESS=false")
        updates: SimpleQueue[pb.RingUpdate | None] = SimpleQueue()
        context.add_callback(lambda: updates.put(None))
        self._watchers.append(updates)
        self.watched += 1
        yield self.update
        while (update := updates.get()) is not None:
            yield update

    def give_slots(self, *nodes: FakeRespNode, bucket: str = "") -> None:
        """Make the next ring: `nodes` have equal shares of the slots, in their order."""
        self._epoch += 1
        share = SLOTS // max(1, len(nodes))
        members = [
            pb.RingNode(address=f"node{number}:1", resp_address=node.address, node_id=f"n{id(node)}")
            for number, node in enumerate(nodes)
        ]
        slots = [
            pb.SlotRange(first=at * share, last=(at + 1) * share - 1, node=at, owned_since=1)
            for at in range(len(nodes))
        ]
        if slots:
            slots[-1].last = SLOTS - 1
        self.update = pb.RingUpdate(epoch=self._epoch, nodes=members, slots=slots, default_bucket=bucket)
        for watcher in self._watchers:
            watcher.put(self.update)

    def add_node(self) -> FakeRespNode:
        node = FakeRespNode(self.reply)
        self.nodes.append(node)
        return node

    def stop_router(self) -> None:
        for watcher in self._watchers:
            watcher.put(None)
        self._router.close()

    def wait_until_direct(self, client: Any) -> None:
        """Read with `client` until it calls the owners of a few keys itself; then remove the recorded requests."""

        def direct() -> bool:
            before = self.sent(b"MILENA.CALL")
            for key in WARM:
                client.get(key, timeout=30)
            return self.sent(b"MILENA.CALL") == before + len(WARM)

        wait_until("the client knows the ring", direct, 30)
        self.clear_requests()

    def clear_requests(self) -> None:
        """Remove the recorded requests."""
        self.requested.clear()
        for node in self.nodes:
            node.received.clear()

    def sent(self, name: bytes) -> int:
        """How many commands of this name the nodes have received."""
        return sum(node.commands.count(name) for node in self.nodes)
