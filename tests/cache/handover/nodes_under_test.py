"""Nodes over fakes in one ring, with links in memory that fail when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import hiredis

from milena_cache.app import Servers, build_servers
from milena_cache.membership import stored_ring
from milena_cache.membership.identity import NodeIdentity
from milena_cache.servers.resp.connection import Connection
from milena_common.api.errors import FailedPrecondition, MilenaError, NodeLost
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.resp.client_commands import error_of
from milena_common.resp.identity import Identity
from tests.cache.node_under_test import BUCKET, NodeUnderTest
from tests.cache.servers.resp.server_under_test import WireClient
from tests.support.fake_clock import FakeClock, run_ready_tasks

# Greater than the epochs of nodes' versions, which begin with the time of day in milliseconds, as a router's are.
FIRST_EPOCH = 2 * 10**12
# Slots as owner and destination have them, with the epoch of the move.
Pending = tuple[int, int, str, int]


class Ring:
    """A ring by hand: owner and epoch of each slot, and the moves in progress."""

    def __init__(self, names: Iterable[str], owner: str, epoch: int = FIRST_EPOCH) -> None:
        self.epoch = epoch
        self.released = epoch
        self.missing: tuple[MissingNode, ...] = ()
        self.nodes = {name: MapNode(f"{name}:1", f"{name}:2", f"id-{name}") for name in names}
        self.owners = [(owner, epoch)] * SLOTS
        self.pending: dict[int, tuple[str, int]] = {}
        self._map: SlotMap | None = None

    def release_all(self) -> None:
        """All owners before are known to serve nothing."""
        self.released, self._map = self.epoch, None

    def plan(self, slots: Iterable[int], to: str) -> int:
        """Plan a move; return its epoch."""
        self.epoch += 1
        self.pending |= {slot: (to, self.epoch) for slot in slots if self.owners[slot][0] != to}
        return self.epoch

    def publish(self, taken: Iterable[tuple[int, int, int]]) -> None:
        """The destination reports slots as taken."""
        self.epoch += 1
        for first, last, since in taken:
            for slot in range(first, last + 1):
                if self.pending.get(slot, ("", 0))[1] == since:
                    self.owners[slot] = self.pending.pop(slot)

    def abort(self) -> None:
        """No move is in progress any more."""
        self.epoch += 1
        self.pending.clear()

    def lose(self, name: str, *, clean: bool = False) -> None:
        """The node is lost, and provably so: the other side of each move gets its slots. `clean`: it has left."""
        self.epoch += 1
        del self.nodes[name]
        if not clean:
            self.missing += (MissingNode(f"{name}:1", f"id-{name}", f"journal-{name}", 1, 0, 0.0, "lost"),)
        other = next(iter(self.nodes))
        for slot, (owner, _) in enumerate(self.owners):
            to = self.pending.pop(slot, None)
            if owner == name:
                self.owners[slot] = (to[0] if to else other, self.epoch)
            elif to and to[0] == name:
                self.owners[slot] = (owner, self.epoch)
            elif to:
                self.pending[slot] = to
        self.released = self.epoch

    def map(self) -> SlotMap:
        if self._map is not None and self._map.epoch == self.epoch:
            return self._map
        owners = {owner: (self.nodes[owner[0]], owner[1]) for owner in set(self.owners)}
        ranges = _ranges(map(owners.__getitem__, self.owners))
        moving = [self.pending.get(slot) for slot in range(SLOTS)] if self.pending else []
        pending = _ranges((self.nodes[each[0]], each[1]) if each else None for each in moving)
        self._map = SlotMap(
            self.epoch,
            BUCKET,
            tuple(self.nodes.values()),
            ranges,
            "cluster",
            pending=pending,
            released_epoch=self.released,
            missing=self.missing,
        )
        return self._map


def _ranges(by_slot: Iterable[tuple[MapNode, int] | None]) -> tuple[MapRange, ...]:
    ranges: list[MapRange] = []
    slot = 0
    for owner, slots in groupby(by_slot):
        number = len(list(slots))
        if owner is not None:
            ranges.append(MapRange(slot, slot + number - 1, *owner))
        slot += number
    return tuple(ranges)


class Member:
    """One node of a `Cluster`."""

    def __init__(self, cluster: Cluster, name: str, t: NodeUnderTest) -> None:
        self.cluster = cluster
        self.name = name
        self.t = t
        identity = NodeIdentity(BUCKET, f"id-{name}", "cluster")
        self.servers: Servers = build_servers(
            t.config, t.parts, f"{name}:1", identity, lambda: False, links=cluster
        )
        self.ownership = self.servers.ownership
        self.handover = self.servers.handover
        self.identity = identity

    def ring_changed(self, slot_map: SlotMap) -> None:
        """As the wiring of a node's membership does."""
        known = self.ownership.epoch
        self.ownership.update(slot_map)
        self.handover.update_moves(self.ownership.slot_map, known)
        self.t.journal.joined("0123456789abcdef")
        ring = stored_ring.to_text(self.ownership.slot_map)
        self.t.journal.defer(lambda disk: disk.set_metadata(stored_ring.NAME, ring))

    def client(self) -> WireClient:
        context = self.servers.resp.context
        return WireClient(Connection(context, context.plain_gets, context.clients.next_id()))


class Cluster:
    """Nodes `names` on one S3, with one clock; the first one owns every slot. The links between them are here.

    cut: nodes that cannot be reached
    held, rejected: releases wait for this event, and so many are rejected
    unconfirmed: replies to releases wait for this event
    broken: how the next commands fail: "before" they arrive, or "after" they were carried out, by name
    """

    def __init__(self, *names: str, clock: FakeClock | None = None, **options: Any) -> None:
        self.ring = Ring(names, names[0])
        self.clock = clock or FakeClock()
        first = NodeUnderTest(clock=self.clock, mode="back", **options)
        self.store = first.store
        self.members = {names[0]: Member(self, names[0], first)}
        for name in names[1:]:
            self.members[name] = Member(self, name, first.another())
        self.broken: list[tuple[bytes, str]] = []
        self.requests: list[bytes] = []
        self.cut: set[str] = set()
        self.held: asyncio.Event | None = None
        self.unconfirmed: asyncio.Event | None = None
        self.rejected = 0

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    async def start(self) -> Cluster:
        for member in self.members.values():
            await member.t.start()
        await self.publish()
        return self

    def restarted(self, name: str) -> None:
        """Make another process of the node, whose parts are new."""
        self.members[name] = Member(self, name, self.members[name].t)

    async def publish(self, *names: str) -> None:
        """Send the ring to all nodes, or to `names`."""
        for name in names or tuple(self.members):
            if name in self.ring.nodes:
                self.members[name].ring_changed(self.ring.map())
        await run_ready_tasks()

    async def publish_taken(self) -> bool:
        """Report what was taken, as renewals do, and publish the ring; False if nothing was."""
        taken = [each for member in self.members.values() for each in member.ownership.taken]
        if taken:
            self.ring.publish(taken)
            await self.publish()
        return bool(taken)

    async def finish_moves(self, seconds: float = 5.0) -> None:
        """Live through `seconds`, with renewals, at most until no move is in progress."""
        for _ in range(int(seconds / 0.05)):
            await self.clock.advance(0.05)
            await self.publish_taken()
            if not self.ring.pending:
                break
        await self.clock.advance(0.1)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Live on until `condition` holds."""
        for _ in range(1000):
            if condition():
                return
            await self.clock.advance(0.002)
        raise AssertionError("it does not come to hold")

    async def released(self) -> None:
        """Live on until slots were released, whether or not there was a reply."""
        await self.until(lambda: b"RELEASE" in self.requests)

    def server_of(self, key: str) -> list[str]:
        """The nodes that serve a key: never more than one."""
        slot = slot_of(key.encode())
        return [name for name, member in self.members.items() if member.ownership.since[slot] >= 0]

    async def stop(self) -> None:
        for member in self.members.values():
            await member.handover.cancel_moves()
            await member.servers.copies.replication.close()
            await member.servers.cluster_blocks.cancel_all()
            await member.t.stop()

    # ---- the links

    def begin(self, address: str, sent: bytes, timeout: float) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_task(self.request(address, sent, timeout))

    async def request(self, address: str, sent: bytes, timeout: float, *, at_once: bool = False) -> Any:
        name = address.partition(":")[0]
        words = hiredis.Reader()
        words.feed(sent)
        argv: list[bytes] = words.gets()
        command = argv[1] if argv[0] == b"MILENA.HANDOVER" else argv[0]
        self.requests.append(command)
        how = ""
        if self.broken and self.broken[0][0] in (command, b""):
            how = self.broken.pop(0)[1]
        if name in self.cut or how == "before":
            await asyncio.sleep(0)
            raise NodeLost(f"{name} cannot be reached")
        if command == b"RELEASE" and self.held is not None:
            await self.held.wait()
        if command == b"RELEASE" and self.rejected:
            self.rejected -= 1
            raise FailedPrecondition("rejected by the test")
        member = self.members[name]
        client = member.client()
        identity = Identity("cluster", BUCKET, f"id-{name}")
        client.send(identity.command() + sent)
        reply = await client.replies(2)
        if how == "after":
            raise NodeLost(f"the connection to {name} was lost")
        found = hiredis.Reader(replyError=lambda line: error_of(line))  # type: ignore[arg-type]
        found.feed(reply)
        assert isinstance(found.gets(), int)
        result = found.gets()
        if command == b"RELEASE" and self.unconfirmed is not None:
            await self.unconfirmed.wait()
        if isinstance(result, MilenaError):
            raise result
        return result
