"""Coordination. What becomes of copies when the ring changes, and of own writes when their slots leave.

    the newest ring                                         what happens
    this node owns the slot, and is not whole               collect (`collecting`), then promote, then serve
    it owns the slot, and is whole                          promote: it handed the slot over, and has it back
    another node owns it, and this one is a listed holder   nothing
    another node owns it, and this one is not listed        drop the copies
    the slot has no owner                                   nothing: this node may have the last copies

*Promoting* makes dirty entries of copies, under the ownership of the newest ring. They are served without a look at
S3, because a complete holder has no copy that an acknowledged write has superseded. Nothing is written for that but
the journal's metadata (`journal_roles`), so that it may be repeated, and is finished after a restart in the middle:
a record is a dirty entry or a copy, and never both.

*Adopting* is the reverse: when a slot was handed over, its new owner counts on this node as the only holder until
the ring lists others, so own writes become copies. A write for whose key the new owner has sent a frame already is
adopted before that takes effect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from milena_cache.copies.collecting import Collecting, HolderPart
from milena_cache.copies.holder import Holder
from milena_cache.copies.journal_roles import Role
from milena_cache.copies.replication import Replication
from milena_cache.copies.store import Copy, CopyStore
from milena_cache.handover.frames import Range, ranges_of
from milena_cache.handover.tombstones import Tombstones
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.record import Damaged, decode
from milena_cache.membership.ownership import Ownership
from milena_cache.memory.entries import Entries
from milena_cache.objects.expiry import NEVER
from milena_cache.objects.version import Version
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import TOO_LATE, DirtyWrites
from milena_cache.writeback.loop import WriteBack
from milena_cache.writeback.uploads.s3_belief import UNCONFIRMED, S3Belief
from milena_common.api.errors import MilenaError
from milena_common.cluster.slot_map import Holder as ListedHolder
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.05, max_delay=1.0)
# Copies and dirty entries that are looked at between two yields to the event loop.
STEP = 500


class Promotion:
    """The copies of one node as the ring changes.

    before: the newest ring of the process before this one
    on_served: called when slots are served that were not, for what depends on that
    promoted: number of copies that became dirty entries; dropped: that were dropped
    """

    def __init__(
        self,
        ownership: Ownership,
        holder: Holder,
        collecting: Collecting,
        journal: Journal[DirtyEntry],
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        writeback: WriteBack,
        entries: Entries,
        tombstones: Tombstones,
        clock: Clock,
        rng: Callable[[], float],
        before: SlotMap,
        replication: Replication,
    ) -> None:
        self.on_served: Callable[[], None] = lambda: None
        # The ring before the newest one; at first that of the process before.
        self.before = before
        self.promoted = 0
        self.dropped = 0
        self._ownership = ownership
        self._holder = holder
        self._store: CopyStore = holder.store
        self._collecting = collecting
        self._journal = journal
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._writeback = writeback
        self._entries = entries
        self._tombstones = tombstones
        self._clock = clock
        self._rng = rng
        # Slots that wait to be collected, and of which this node was a complete holder.
        self._complete: set[int] = set()
        self._listed: set[int] = set()
        # Slots that are gated until they are collected, and those of them that this node had handed over.
        self._waiting: set[int] = set()
        self._returned: set[int] = set()
        # Those of them whose copies are dirty entries: they wait only until other holders have the same.
        self._promoted_slots: set[int] = set()
        # Slots with writes that a process before this one has left; None until the first ring.
        self._recovered: set[int] | None = None
        self._replication = replication
        self._promoting: asyncio.Task[None] | None = None
        self._log = LogLimiter()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._adopting: set[int] = set()
        self._detached: list[dict[bytes, Copy]] = []
        holder.adopt_key = self.adopt_key
        holder.on_tombstone = lambda key: self.retire_superseded((key,))
        holder.is_adopting = self._adopting.__contains__
        holder.on_late = lambda: self._spawn("drop", self._drop_all)
        replication.unpromoted = lambda: self._waiting - self._promoted_slots
        replication.on_synced = self._serve_synced

    # ---- the ring

    def update_ring(self) -> None:
        """Begin what the newest ring requires, which `Ownership` has already."""
        me, slot_map, before = self._ownership.me, self._ownership.slot_map, self.before
        self.before = slot_map
        self._listed = _slots_listing(slot_map, me, complete=False)
        self._holder.update_ring()
        changed = self._hold_back_returned()
        uncollected = _slots(self._ownership.uncollected)
        new = uncollected - self._waiting
        # By the last ring that this node had it may be complete, and not by one in between that it has missed.
        incomplete = self._listed & uncollected
        if incomplete:
            self._drop_superseded(incomplete & _slots_listing(slot_map, me, complete=True))
        self._complete &= uncollected
        self._complete |= new & ((_slots_listing(before, me, complete=True) - incomplete) | self._returned)
        self._returned &= uncollected
        self._holder.doubt(new - self._complete)
        self._waiting = uncollected
        self._promoted_slots &= uncollected
        self._collecting.keep_only(uncollected)
        changed |= self._serve(self._nothing_to_do(uncollected))
        changed |= self._hold_back_recovered()
        self._restart_promoting()
        if len(self._store):
            self._spawn("drop", self._drop_all)
        self._holder.store_roles()
        if changed:
            self.on_served()

    def _drop_superseded(self, slots: set[int]) -> None:
        """Give up what this node has of `slots`: their last owner left when S3 had everything.

        What it has deleted is known to no node any more, so that an earlier write of this node, or one that another
        node hands in, cannot be told from one that was deleted since: (1) this node is away with a put; (2) the
        owner deletes the key, uploads that, and leaves without handing over; (3) this node gets the slot, or the
        next one that returns hands the put in. It is withheld, as after TOMBSTONE_SECONDS.
        """
        if not slots:
            return
        self._drop_slots(slots)
        self._tombstones.raise_floor(Version(self._ownership.slot_map.epoch, 0))
        for entry in list(self._dirty.values()):
            if slot_of(entry.key) in slots and entry.dead is None and not entry.upload.uploading:
                self._dirty_writes.withhold(entry, TOO_LATE)

    def _hold_back_returned(self) -> bool:
        """Gate the slots that this node has handed over, and has back before another ring had them.

        Their last owner's writes are copies here, and nowhere else: (1) this node hands a slot over; (2) its new
        owner overwrites k, and deletes j from S3, with this node as the only holder; (3) the new owner is lost, so
        that the slot is this node's again; (4) what the ring lists as holders has k and j as they were before.
        """
        here = self._holder.pending_slots | self._adopting | set(self._store.slots)
        if not here:
            return False
        mine = self._ownership.own_slots - _slots(self._ownership.uncollected)
        returned = mine & here
        returned -= self._ownership.leaving(returned)
        self._returned |= returned
        self._adopting -= returned
        changed = False
        for first, last in ranges_of(returned):
            changed |= self._ownership.hold_back(first, last)
        return changed

    def _hold_back_recovered(self) -> bool:
        """Have the owner's side follow the ring; gate slots until holders have what a restart has found."""
        if self._recovered is None:
            self._recovered = (
                set(map(slot_of, self._dirty)) if self._ownership.slot_map.copies_wanted > 1 else set()
            )
        recovered = self._recovered
        if recovered:
            slot_map, me = self._ownership.slot_map, self._ownership.me
            recovered = {slot for slot in recovered if slot_map.target(slot).address in ("", me)}
            self._promoted_slots |= recovered & self._ownership.own_slots - self._waiting
        self._replication.update_ring()
        changed = False
        if recovered:
            mine = recovered & self._promoted_slots
            held = set(filter(self._replication.awaits_sync, mine))
            self._promoted_slots -= mine - held
            self._waiting |= held
            for first, last in ranges_of(held):
                changed |= self._ownership.hold_back(first, last)
            recovered -= mine - held
        self._recovered = recovered
        return changed

    def _serve_synced(self) -> None:
        """Serve the slots that have waited only for other holders."""
        ready = {slot for slot in self._promoted_slots & self._waiting if not self._replication.awaits_sync(slot)}
        if not ready:
            return
        self._serve(ready)
        self._writeback.requeue_held_back()
        self.on_served()

    def _nothing_to_do(self, slots: set[int]) -> set[int]:
        """Return those of `slots` of which no node has copies, as far as the ring says."""
        pending = self._holder.pending_slots
        free = {slot for slot in slots if not self._store.has_any(slot) and slot not in pending}
        if free:
            for part in self._parts_of(free):
                free -= part.slots
        return free

    def retire_superseded(self, keys: Iterable[bytes]) -> None:
        """Give up this node's own earlier writes of `keys` that their owner has deleted from S3 since."""
        for key in keys:
            entry = self._dirty.get(key)
            if entry is None or entry.dead is not None or entry.upload.uploading:
                continue
            if self._tombstones.superseded(key, entry.version):
                self._dirty_writes.retire(entry)

    def _serve(self, slots: set[int]) -> bool:
        changed = False
        # Those that stayed when the tombstone came, because they were being uploaded, or were not complete yet.
        self.retire_superseded(self._tombstones.keys_of(slots))
        for first, last in ranges_of(slots):
            changed |= self._ownership.collected(first, last)
            served = set(range(first, last + 1))
            self._waiting -= served
            self._promoted_slots -= served
            if self._recovered:
                self._recovered -= served
        return changed

    def _parts_of(self, slots: set[int]) -> list[HolderPart]:
        """Return what is to be collected of `slots`, and from whom.

        From all living complete holders. Filling ones are asked only for slots of which no complete one is left,
        this node included: what they have may be superseded, so it is compared with S3 before it is served.
        """
        slot_map, me = self._ownership.slot_map, self._ownership.me
        living = {node.address: node for node in slot_map.nodes}
        parts: dict[tuple[str, bool], HolderPart] = {}
        for first, last, holders in slot_map.copies:
            here = slots.intersection(range(first, last + 1))
            if self._returned:
                here -= self._returned  # no other node has what their last owner has acknowledged
            others = [each for each in holders if each.node.address in living and each.node.address != me]
            complete = [each for each in others if each.complete]
            for each in complete:
                _add(parts, each, here)
            if not complete and (rest := here - self._complete):
                for each in others:
                    _add(parts, each, rest)
        return [each for each in parts.values() if each.resp_address]

    @property
    def is_needed(self) -> bool:
        """Return True if the ring lists this node as a holder, and has enough others that can take its place."""
        slot_map = self._ownership.slot_map
        return bool(self._listed) and len(slot_map.nodes) > slot_map.copies_wanted

    def is_holder(self, slot: int) -> bool:
        """Return True if the ring lists this node as a holder of `slot`."""
        return slot in self._listed

    def holds_back(self, slot: int) -> bool:
        """Return True while `slot` is this node's, and what others have of it is collected."""
        return slot in self._waiting

    @property
    def collecting_slots(self) -> int:
        """Return how many slots wait until their copies are collected and promoted."""
        return len(self._waiting)

    @property
    def unpromoted(self) -> int:
        """Return how many writes of its slots this node has as copies only; 1 if it has yet to collect them."""
        slots = self._waiting - self._promoted_slots
        if not slots:
            return 0
        copied = slots.intersection(self._store.slots)
        return max(1, sum(1 for slot in copied for _ in self._store.in_slot(slot)))

    # ---- promoting

    def _restart_promoting(self) -> None:
        """Collect and promote by the newest ring: a holder that it does not have any more is not waited for."""
        if self._promoting is not None:
            self._promoting.cancel()
            self._promoting = None
        if self._waiting:
            self._promoting = asyncio.get_running_loop().create_task(self._promote_all())

    async def _promote_all(self) -> None:
        failures = 0
        while self._waiting:
            await self._journal.sync_barrier()  # what was sent by an older ring is in the journal then
            await asyncio.gather(*map(self._collect, self._parts_of(self._waiting - self._promoted_slots)))
            ready = self._waiting - self._promoted_slots - self._holder.pending_slots
            for part in self._parts_of(ready):
                ready -= part.slots - self._collecting.done(part)
            await self._promote_and_serve(ready)
            if ready:
                self._replication.promoted()
                self._serve_synced()
            if self._waiting:
                failures = 1 if ready else failures + 1
                await self._clock.sleep(BACKOFF.delay(failures, self._rng))

    async def _collect(self, part: HolderPart) -> None:
        try:
            await self._collecting.collect(part)
        except MilenaError as error:
            if self._log.allow(self._clock.now()):
                log.warning("could not collect copies from node %s yet: %s", part.address, error)

    async def _promote_and_serve(self, slots: set[int]) -> None:
        done: list[int] = []
        seen = 0
        # Most slots have no copies, and nothing awaits before they are served.
        copied = slots.intersection(self._store.slots)
        self._promoted(slots - copied)
        for slot in sorted(copied):
            seen += await self._promote(slot)
            done.append(slot)
            if seen >= STEP:
                self._promoted(done)
                done, seen = [], 0
                await asyncio.sleep(0)
        self._promoted(done)

    def _promoted(self, slots: Iterable[int]) -> None:
        """Serve `slots`, whose copies are dirty entries: nothing awaits since the last of them was."""
        mine = sorted(self._waiting.intersection(slots).difference(self._store.slots))
        if not mine:
            return
        self._holder.set_role(mine, Role.OWN)
        self._promoted_slots.update(mine)
        self._serve_synced()

    async def _promote(self, slot: int) -> int:
        """Make dirty entries of the copies of `slot`; return how many there were."""
        number = 0
        for number, (key, copy) in enumerate(self._store.in_slot(slot), 1):
            if self._store.get(key) is copy:
                self._promote_one(key, copy)
            if not number % STEP:
                await asyncio.sleep(0)
        return number

    def _promote_one(self, key: bytes, copy: Copy) -> None:
        self._store.pop_copy(key)
        known = self._dirty.get(key)
        since = self._ownership.slot_map.target(slot_of(key)).owned_since if copy.sure else UNCONFIRMED
        if known is not None and known.version >= copy.version:
            if known.version == copy.version and copy.sure and not known.upload.uploading:
                known.belief = known.belief.confirmed(since).in_doubt()
            if known.number != copy.number:
                self._journal.release(copy.number, key)
            return
        if self._tombstones.superseded(key, copy.version):
            self._journal.release(copy.number, key)
            return
        damage = ""
        raw = self._journal.disk.read_record(copy.number)
        try:
            if raw is None:
                raise Damaged("is gone")
            record, size = decode(copy.number, raw, with_value=False)
        except Damaged as error:
            if error.record is None:
                log.critical("the journal record %d of a copy %s", copy.number, error)
                return
            record, size, damage = error.record, 0, str(error)
        keeps = record.base if record.keeps and isinstance(record.base, str) else ""
        # The lost owner may have uploaded it, in part: `in_doubt`.
        belief = S3Belief.recovered(record.base, conditional=record.conditional, keeps=keeps).in_doubt()
        belief = replace(belief, owned_since=since)
        age = max(0.0, self._clock.wall() - record.written_at)
        entry = DirtyEntry(
            key,
            record.version,
            None,
            size,
            belief,
            deleted=record.value is None,
            journaled=True,
            acknowledged_at=self._clock.now() - age,
            expires_at=record.expires_at or NEVER,
            number=copy.number,
        )
        self._entries.invalidate(key)
        uploading = known is not None and known.upload.uploading
        self._dirty_writes.replace(entry)
        entry.belief = entry.belief.in_doubt() if uploading else belief
        if damage:
            self._dirty.kill(entry, f"damaged: the journal record: {damage}", self._clock.wall(), damaged=True)
        self._writeback.acknowledged(entry)
        self.promoted += 1

    # ---- dropping

    def _keeps(self, slot: int, mine: set[int]) -> bool:
        """Return True if the copies of `slot` may be needed; `mine`: the slots without another owner."""
        return slot in mine or slot in self._listed or slot in self._holder.ahead

    async def _drop_all(self) -> None:
        """Drop the copies of slots that other nodes own, and of which the ring does not list this node."""
        if not self._ownership.epoch:
            return
        mine = _slots_without_other_owner(self._ownership.slot_map, self._ownership.me)
        number = 0
        for slot in self._store.slots:
            if self._keeps(slot, mine):
                continue
            for key, _ in self._store.in_slot(slot):
                self._holder.drop_copy(key)
                self.dropped += 1
                number += 1
            if number >= STEP:
                number = 0
                await asyncio.sleep(0)
                mine = _slots_without_other_owner(self._ownership.slot_map, self._ownership.me)

    def took(self, ranges: Sequence[Range]) -> None:
        """Drop the copies of slots that this node has taken over: their owner has handed over all their writes.

        Before this node acknowledges the first write of them, which its copies do not know of.
        """
        self._drop_slots({slot for first, last in ranges for slot in range(first, last + 1)})

    def _drop_slots(self, dropped: set[int]) -> None:
        """Drop the copies of the slots of `dropped`, in time with the journal."""
        slots = [slot for slot in self._store.slots if slot in dropped]
        pending = self._holder.release_pending(ranges_of(dropped))
        if slots or pending:
            self._holder.set_role(slots, Role.DROPPED)
            self._detached += self._store.detach(slots)
            self._spawn("detached", self._drop_detached)

    async def _drop_detached(self) -> None:
        number = 0
        while self._detached:
            for key, copy in self._detached.pop().items():
                self._journal.release(copy.number, key)
                number += 1
                if not number % STEP:
                    await asyncio.sleep(0)

    # ---- adopting

    def adopt(self, slots: set[int]) -> bool:
        """Make copies of this node's dirty writes of `slots`, which it has handed over.

        Returns False in a ring without copies: nothing is done then.
        """
        if self._ownership.slot_map.copies_wanted <= 1:
            return False
        self._holder.set_role(slots, Role.COPY)
        self._adopting |= slots
        self._spawn("adopt", self._adopt_all)
        return True

    async def _adopt_all(self) -> None:
        slots = set(self._adopting)
        for number, key in enumerate(list(self._dirty)):
            if slot_of(key) in slots:
                self.adopt_key(key)
            if not (number + 1) % STEP:
                await asyncio.sleep(0)
        self._adopting -= slots

    def adopt_key(self, key: bytes) -> None:
        """Make a copy of this node's dirty write of `key`, if there is one and its slot is not served here."""
        entry = self._dirty.get(key)
        if entry is None or self._ownership.unfenced_since_slot(slot_of(key)) >= 0:
            return
        self.adopt_or_retire(entry)

    def adopt_or_retire(self, entry: DirtyEntry) -> None:
        """Make a copy of a dirty entry of a slot that was handed over; remove it if this node holds no copies."""
        key, slot = entry.key, slot_of(entry.key)
        if entry.upload.uploading or (entry.dead is not None and entry.dead.damaged):
            return
        kept = slot in self._listed or slot in self._adopting or self._ownership.is_leaving(slot)
        if not kept or not entry.journaled or self._ownership.slot_map.copies_wanted <= 1:
            self._dirty_writes.retire(entry)
            return
        sure = entry.belief.owned_since >= 0
        self._dirty_writes.withdraw(entry)
        known = self._store.get(key)
        if known is not None and known.version >= entry.version:
            self._journal.release(entry.number, key)
        else:
            self._holder.hold_copy(key, Copy(entry.version, entry.number, entry.size, entry.deleted, sure=sure))

    # ---- tasks

    def _spawn(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work`, or once more after the run in progress."""
        if name in self._tasks:
            self._again.add(name)
        else:
            self._tasks[name] = asyncio.get_running_loop().create_task(self._run(name, work))

    async def _run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            while True:
                self._again.discard(name)
                await work()
                if name not in self._again:
                    return
        finally:
            del self._tasks[name]

    async def cancel_promoting(self) -> None:
        """Cancel everything, at the end of the process."""
        tasks = list(self._tasks.values())
        if self._promoting is not None:
            tasks.append(self._promoting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _add(parts: dict[tuple[str, bool], HolderPart], holder: ListedHolder, slots: set[int]) -> None:
    if slots:
        node = holder.node
        new = HolderPart(node.address, node.resp_address, node.node_id, holder.complete, set())
        parts.setdefault((node.address, holder.complete), new).slots.update(slots)


def _slots(ranges: Iterable[tuple[int, int, int]]) -> set[int]:
    return {slot for first, last, _ in ranges for slot in range(first, last + 1)}


def _slots_listing(slot_map: SlotMap, address: str, *, complete: bool) -> set[int]:
    """Return the slots of which the ring lists the node at `address` as a holder; `complete`: as a complete one."""
    found: set[int] = set()
    for first, last, holders in slot_map.copies:
        if any(each.node.address == address and (each.complete or not complete) for each in holders):
            found.update(range(first, last + 1))
    return found


def _slots_without_other_owner(slot_map: SlotMap, address: str) -> set[int]:
    found = set(range(SLOTS))
    for first, last, node, _ in slot_map.ranges:
        if node.address != address:
            found.difference_update(range(first, last + 1))
    return found
