"""Nodes that hold copies, and an owner by hand: its frames, and the rings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from milena_cache.copies.frames import (
    Begin,
    End,
    Release,
    Reply,
    Sender,
    encode_command,
    encode_frame,
    encode_release,
    encode_slots,
    record_parts,
)
from milena_cache.journal.record import Record, decode, encode
from milena_cache.objects.version import UNKNOWN, Base, Version
from milena_common.cluster.slot_map import CopyRange, Holder, SlotMap
from milena_common.cluster.slots import SLOTS
from tests.cache.handover.nodes_under_test import FIRST_EPOCH, Cluster, Member, Ring
from tests.cache.node_under_test import BUCKET, NodeUnderTest

ALL = ((0, SLOTS - 1),)


class CopyRing(Ring):
    """A ring with holders: the same ones for all slots, by name, complete or filling."""

    def __init__(self, names: Iterable[str], owner: str, epoch: int = FIRST_EPOCH) -> None:
        super().__init__(names, owner, epoch)
        self.owner = owner
        self.all = dict(self.nodes)
        self.holders: tuple[tuple[str, bool], ...] = ()
        self.target_copies = 2

    def map(self) -> SlotMap:
        found = super().map() if self.owner else None
        nodes = tuple(self.nodes.values())
        holders = tuple(Holder(self.all[name], complete) for name, complete in self.holders)
        return SlotMap(
            self.epoch,
            BUCKET,
            nodes,
            found.ranges if found is not None else (),
            "cluster",
            pending=found.pending if found is not None else (),
            released_epoch=self.released,
            copies=(CopyRange(0, SLOTS - 1, holders),) if holders else (),
            copies_wanted=self.target_copies,
        )

    def change(self, owner: str, holders: str, lost: str = "", *, same_since: bool = False) -> None:
        """A new ring. `holders`: names of complete holders; those in upper case are filling."""
        self.epoch += 1
        self.released = self.epoch
        for name in lost:
            self.nodes.pop(name, None)
        self.holders = tuple((name.lower(), name.islower()) for name in holders)
        self.pending.clear()
        self.owner = owner
        if owner:
            since = self.owners[0][1] if same_since else self.epoch
            self.owners = [(owner, since)] * SLOTS


class HolderCluster(Cluster):
    """Nodes with one owner for all slots, `o`, which is no node that is there but an `Owner`."""

    ring: CopyRing

    def __init__(self, *names: str, holders: str = "", **options: int) -> None:
        super().__init__(*names, **options)
        self.ring = CopyRing(("o", *names), "o")
        self.ring.change("o", holders)
        self.gone: list[Member] = []

    async def crash(self, name: str) -> None:
        """Kill the process of a node, and start the next one, on what its disk has."""
        before = self.members[name]
        before.t.writeback.paused = lambda: True
        await before.servers.copies.replication.close()
        self.gone.append(before)
        options = {**before.t._options, "disk": before.t.disk.after_crash(), "store": self.store}
        self.members[name] = Member(self, name, NodeUnderTest(**options))
        await self.members[name].t.start()

    async def change(self, owner: str, holders: str, lost: str = "", *, same_since: bool = False) -> None:
        """Publish a new ring; see `CopyRing.change`."""
        self.ring.change(owner, holders, lost, same_since=same_since)
        await self.publish()

    async def stop(self) -> None:
        for member in [*self.gone, *self.members.values()]:
            await member.servers.copies.promotion.cancel_promoting()
        for member in self.gone:
            member.t.disk.gate.set()
            await member.t.stop()
        await super().stop()

    def copies(self, name: str) -> dict[str, bytes | None]:
        """What the node holds, by key, with the values."""
        member = self.members[name]
        store = member.servers.copies.store
        found: dict[str, bytes | None] = {}
        for slot in store.slots:
            for key, copy in store.in_slot(slot):
                raw = member.t.disk.read_record(copy.number)
                assert raw is not None
                found[key.decode()] = decode(copy.number, raw)[0].value
        return found


class Owner:
    """The sender of frames, as the owner of all slots.

    Its versions are of the epoch that it has.
    """

    def __init__(self, cluster: HolderCluster, name: str = "o", process: str = "") -> None:
        self.cluster = cluster
        self.name = name
        self.process = process or f"id-{name}"
        self.epoch = cluster.ring.epoch
        self.session = 1
        self.serial = 0
        self.seq = 0

    def version(self) -> Version:
        self.seq += 1
        return Version(self.epoch, self.seq)

    def record(
        self,
        key: str,
        value: bytes | None,
        version: Version | None = None,
        *,
        base: Base = UNKNOWN,
        restored: bool = False,
        unconfirmed: bool = False,
    ) -> bytes:
        record = Record(key.encode(), version or self.version(), value, base, written_at=self.cluster.clock.wall())
        return b"".join(record_parts(encode(record), restored=restored, unconfirmed=unconfirmed))

    def release(self, key: str, version: Version | None = None, deleted_at: float | None = None) -> bytes:
        return encode_release(Release(key.encode(), version or Version(self.epoch, self.seq), deleted_at))

    def begin(self, slots: Sequence[tuple[int, int]] = ALL, *, kept: int = 0) -> bytes:
        return encode_slots(Begin(tuple(slots), kept))

    def end(self, slots: Sequence[tuple[int, int]] = ALL) -> bytes:
        return encode_slots(End(tuple(slots)))

    def sender(self) -> Sender:
        self.serial += 1
        return Sender(self.epoch, f"{self.name}:1", self.process, self.session, self.serial)

    def reconnect(self) -> None:
        self.session += 1
        self.serial = 0

    async def send(self, to: str, *items: bytes, sender: Sender | None = None) -> Reply:
        """Send a frame over the holder's RESP server; return its reply. Raises MilenaError."""
        sent = encode_command(sender or self.sender(), encode_frame(items, urgent=True))
        return Reply(await self.cluster.request(f"{to}:2", sent, 1.0))
