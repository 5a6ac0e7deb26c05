"""Coordination. The holder's side of copies: takes the frames of the owners of slots into this node's journal.

`frames` describes what owners send and what the replies mean. What a frame does takes effect when the command
arrives, in the order of arrival; only the reply waits for the journal. So there are *pending* copies, which are
queued for a commit: what is released meanwhile is removed as soon as they are in the journal.

    RECORD ─▶ pending ─▶ commit ─▶ copy ─▶ reply        RELEASE ─▶ removal of the record ─▶ commit ─▶ reply

The number of a record is one of this journal. A later item of a key always has a greater number than the ones
before, so that a replay finds the last one, whatever the order of the versions is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from milena_cache.copies.frames import (
    Begin,
    CopiedRecord,
    End,
    Release,
    Reply,
    Sender,
    is_urgent,
    items,
)
from milena_cache.copies.journal_roles import NAME, JournalRoles, Role
from milena_cache.copies.pending import AwaitedCopies, PendingCopy
from milena_cache.copies.store import Copy, CopyStore, keeping_of
from milena_cache.handover.frames import Range, ranges_of
from milena_cache.handover.tombstones import Tombstones
from milena_cache.journal import origin
from milena_cache.journal.commit import JournalFull, QueuedWrite
from milena_cache.journal.disk import Disk
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.record import Damaged, Record, copied
from milena_cache.membership.ownership import Ownership
from milena_cache.objects.version import Version
from milena_cache.writeback.dirty_table import DirtyEntry
from milena_common.api.errors import FailedPrecondition, InvalidRequest, Unavailable
from milena_common.cluster.slot_map import MapRange, SlotMap
from milena_common.cluster.slot_runs import overlaps
from milena_common.cluster.slots import slot_of

# From so many slots on, a frame's slots are looked up by range.
MANY_SLOTS = 64
# How long a frame waits for the journal, in seconds.
COMMIT_SECONDS = 10.0
# Owners' processes whose sessions are remembered; a ring has fewer members.
MAX_SESSIONS = 1000


class _Taken:
    """A record of a frame, as it will be in this node's journal."""

    __slots__ = ("raw", "record", "restored", "size", "slot")

    def __init__(self, record: Record, size: int, raw: bytes, *, restored: bool) -> None:
        self.record = record
        self.size = size
        self.raw = raw
        self.restored = restored
        self.slot = slot_of(record.cache_key)


class _TakenFrame(AwaitedCopies):
    """A frame that has taken effect, and whose reply waits for the journal: for its records and what it releases.

    released: the keys of which something was released
    full: True if there was no room for its records
    soon: True if the next commit is not to be waited for, but begun
    reply: resolved when none of its records is queued any more; None if none ever was
    """

    __slots__ = ("_holder", "full", "released", "reply", "sender", "slots", "soon")

    def __init__(self, holder: Holder, sender: Sender, slots: set[int], *, full: bool, soon: bool) -> None:
        super().__init__()
        self._holder = holder
        self.released: list[bytes] = []
        self.sender = sender
        self.slots = slots
        self.full = full
        self.soon = soon
        self.reply: asyncio.Future[Reply] | None = None

    def all_done(self) -> None:
        self._holder.copies_done(self)


class _TakenOver(NamedTuple):
    """The destination of a move of `epoch` that has begun a slot, as having everything."""

    address: str
    process: str
    epoch: int


class _Prepared:
    """The items of a frame, checked: records as they will be in this journal.

    records: their number; cost, keeping: what they count for in the budget of copies, see `CopyStore`
    """

    def __init__(self, frame: bytes, journal: Journal[DirtyEntry]) -> None:
        self.urgent = is_urgent(frame)
        self.items: list[Release | Begin | End | _Taken] = []
        self.slots: set[int] = set()
        self.records = self.cost = self.keeping = 0
        for item in items(frame):
            if isinstance(item, CopiedRecord):
                try:
                    number = journal.next_version(0).seq
                    record, size, raw = copied(item.raw, number, doubtful=item.unconfirmed)
                except Damaged as error:
                    raise InvalidRequest(f"a copied write cannot be read: {error}") from None
                taken = _Taken(record, size, raw, restored=item.restored)
                self.items.append(taken)
                self.slots.add(taken.slot)
                self.records += 1
                keeping = keeping_of(record.cache_key)
                self.keeping += keeping
                self.cost += keeping + size
                continue
            self.items.append(item)
            if isinstance(item, Release):
                self.slots.add(slot_of(item.key))
            else:
                for first, last in item.slots:
                    self.slots.update(range(first, last + 1))

    def leave_out(self, slots: set[int]) -> None:
        """Remove what concerns `slots`."""
        kept: list[Release | Begin | End | _Taken] = []
        for item in self.items:
            if isinstance(item, _Taken):
                if item.slot not in slots:
                    kept.append(item)
                continue
            if isinstance(item, Release):
                if slot_of(item.key) not in slots:
                    kept.append(item)
                continue
            left = {slot for first, last in item.slots for slot in range(first, last + 1)} - slots
            if left:
                kept.append(item._replace(slots=tuple(ranges_of(left))))
        self.items = kept
        self.slots -= slots
        self.records = sum(isinstance(item, _Taken) for item in kept)


class Holder:
    """Takes frames of copies. Which of its slots' copies this node keeps is decided by `promotion`.

    adopt_key: makes a copy of this node's own dirty write of a key whose slot it has handed over
    on_tombstone: called with the key of a delete, which S3 may have carried out over what this node has of it
    is_adopting: returns True while that is being done for a slot
    on_late: called when a copy has come into the journal after the ring had changed
    taken: number of records that were taken; full: frames refused for want of room
    """

    def __init__(
        self,
        ownership: Ownership,
        store: CopyStore,
        roles: JournalRoles,
        journal: Journal[DirtyEntry],
        tombstones: Tombstones,
    ) -> None:
        self.store = store
        self.roles = roles
        self.taken = 0
        self.full = 0
        self.adopt_key: Callable[[bytes], None] = lambda key: None
        self.on_tombstone: Callable[[bytes], None] = lambda key: None
        self.is_adopting: Callable[[int], bool] = lambda slot: False
        self.on_late: Callable[[], None] = lambda: None
        # By slot the epoch of frames that are newer than this node's ring.
        self.ahead: dict[int, int] = {}
        # By slot the node that has taken it over, as far as no ring that is known here says; see `_is_over`.
        self._taken_over: dict[int, _TakenOver] = {}
        self._ownership = ownership
        self._journal = journal
        self._tombstones = tombstones
        self._pending: dict[bytes, list[PendingCopy]] = {}
        self._pending_bytes = 0
        self._pending_keeping = 0
        self._sessions: dict[str, tuple[int, int]] = {}
        # The slots of nodes by address and process, in the ring `_known_in`.
        self._known: dict[tuple[str, str], set[int]] = {}
        self._known_in: SlotMap | None = None
        self._recovered: set[int] = set()
        self._marked = False
        self._storing_roles = False
        self._replying: set[asyncio.Task[Reply]] = set()
        journal.observe(self)
        journal.copies = self

    # ---- frames

    def take_frame(self, sender: Sender, frame: bytes) -> Reply | Awaitable[Reply]:
        """Carry out a frame, and return the reply, or what waits for the journal until there is one.

        Raises InvalidRequest for a frame that cannot be read, and Unavailable where this node may not have heard of
        the ring by which the sender owns its slots; nothing took effect then. What is returned raises Unavailable
        if it is not known how much of the frame is durable.
        """
        prepared = _Prepared(frame, self._journal)
        reply = self._check_owner(sender, prepared.slots) or self._check_session(sender)
        if reply is not None:
            return reply
        over = self._is_over(sender, prepared.slots)
        if over:
            prepared.leave_out(over)
        if any(isinstance(item, End) for item in prepared.items) and any(map(self.is_adopting, prepared.slots)):
            raise Unavailable("this node is still making copies of its own writes of these slots")
        self._sessions.pop(sender.process, None)
        self._sessions[sender.process] = sender.session, sender.serial
        if len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._remember_epoch(sender.epoch, prepared.slots)
        full = bool(prepared.records) and not self._has_room(prepared)
        if full:
            self.full += 1
        if prepared.records:
            self.mark_journal()
        soon = prepared.urgent or bool(prepared.records)
        taken = _TakenFrame(self, sender, prepared.slots, full=full, soon=soon)
        released = taken.released
        for item in prepared.items:
            if isinstance(item, _Taken):
                if not full:
                    self._take_record(item, taken)
            elif isinstance(item, Release):
                self._release(item, taken)
                released.append(item.key)
            elif isinstance(item, Begin):
                if item.kept:
                    self._take_over(_TakenOver(sender.address, sender.process, item.kept), item.slots)
                else:
                    self._begin(item.slots)
            else:
                released += self._end(item.slots, taken)
        if taken.number:
            taken.reply = asyncio.get_running_loop().create_future()
            return taken.reply
        return self._reply_when_released(taken)

    def copies_done(self, taken: _TakenFrame) -> None:
        """Reply to a frame whose records are in the journal, or will not be."""
        future = taken.reply
        if future is None or future.done():
            return
        if self._journal.is_leaving(taken.released):
            task = asyncio.get_running_loop().create_task(self._reply_when_released(taken))
            self._replying.add(task)
            task.add_done_callback(partial(self._replied, future))
            return
        try:
            future.set_result(self._reply(taken))
        except Exception as error:
            future.set_exception(error)

    def _replied(self, future: asyncio.Future[Reply], task: asyncio.Task[Reply]) -> None:
        self._replying.discard(task)
        if future.done() or task.cancelled():
            future.cancel()
        elif error := task.exception():
            future.set_exception(error)
        else:
            future.set_result(task.result())

    async def _reply_when_released(self, taken: _TakenFrame) -> Reply:
        if not await self._journal.have_released(taken.released, soon=taken.soon):
            raise Unavailable("the journal cannot record that copies are released: its disk is full, or has failed")
        return self._reply(taken)

    def _reply(self, taken: _TakenFrame) -> Reply:
        """Return the reply to a frame of which all is durable that ever will be. Raises Unavailable."""
        error = taken.error
        full = taken.full or isinstance(error, JournalFull)
        if error is not None and not isinstance(error, JournalFull):
            raise error
        if self._check_owner(taken.sender, taken.slots) is not None:
            raise FailedPrecondition("the ring has changed, and the sender does not own the slots any more")
        return Reply.FULL if full else Reply.TAKEN

    def _has_room(self, prepared: _Prepared) -> bool:
        if self._journal.full:
            return False
        cost, keeping = self._pending_bytes, self._pending_keeping
        # First as if none of its keys had a copy yet.
        if self.store.has_room(cost + prepared.cost, keeping + prepared.keeping):
            return True
        for item in prepared.items:
            if isinstance(item, _Taken):
                key = item.record.cache_key
                known = self.store.get(key)
                if known is None or known.version != item.record.version:
                    keeping += keeping_of(key)
                    cost += keeping_of(key) + item.size
        return self.store.has_room(cost, keeping)

    def _take_record(self, item: _Taken, awaited: AwaitedCopies) -> None:
        record, slot = item.record, item.slot
        key, version = record.cache_key, record.version
        if self._ownership.is_leaving(slot):
            self.adopt_key(key)
        waiting: PendingCopy | None = None
        if key in self._pending:
            waiting = next((each for each in reversed(self._pending[key]) if not each.released), None)
        known = self.store.get(key) if waiting is None else waiting.copy
        if known is not None and not known.damaged:
            confirmed = self.store.is_confirmed(key) if waiting is None else waiting.confirmed
            same = known.version == version
            if same or (known.version > version and confirmed and not item.restored):
                if waiting is not None:
                    waiting.confirmed = True
                    awaited.add(waiting)
                elif same:
                    sure = known.sure or not record.doubtful
                    self.store.put_copy(key, known._replace(sure=sure))
                return
        self._journal.learned(version)
        copy = Copy(version, record.number, item.size, record.value is None, sure=not record.doubtful)
        awaited.add(self.append(key, copy, item.raw))
        self.taken += 1

    def append(self, key: bytes, copy: Copy, raw: bytes) -> PendingCopy:
        """Put a copy, whose record is `raw`, into the journal. It and the result raise as `Journal.write` says."""
        waiting = PendingCopy(key, slot_of(key), copy, self._ownership.epoch)
        self._journal.write_for(waiting, copy.number, raw, waiting, self._failed, COMMIT_SECONDS)
        known = self._pending.get(key)
        if known is None:
            self._pending[key] = [waiting]
        else:
            known.append(waiting)
        self._pending_bytes += keeping_of(key) + copy.size
        self._pending_keeping += keeping_of(key)
        return waiting

    def committed(self, batch: Sequence[QueuedWrite[Any]], seconds: float) -> None:
        """Complete the copies that were committed, as an observer of the journal.

        They must not wait for other nodes, as this node's own writes in the same commit do: (1) this node and
        another one hold copies of each other's slots; (2) each has one commit with a write of its own and a copy;
        (3) each would confirm the copy only when the other one has.
        """
        for write in batch:
            waiting = write.token
            if isinstance(waiting, PendingCopy):
                self._appended(waiting, durable=True)
                if not waiting.done():
                    waiting.set_result(None)

    def _failed(self, waiting: PendingCopy, durable: bool) -> None:
        if not durable:
            self._appended(waiting, durable=False)

    def _appended(self, waiting: PendingCopy, *, durable: bool) -> None:
        key, copy = waiting.key, waiting.copy
        others = self._pending[key]
        if len(others) == 1:
            del self._pending[key]
        else:
            others.remove(waiting)
        self._pending_bytes -= keeping_of(key) + copy.size
        self._pending_keeping -= keeping_of(key)
        if not durable:
            return
        if waiting.released:
            self._journal.release(copy.number, key)
            return
        self.hold_copy(key, copy, confirmed=waiting.confirmed)
        if waiting.epoch != self._ownership.epoch:
            self.on_late()

    def hold_copy(self, key: bytes, copy: Copy, *, confirmed: bool = True) -> None:
        """Make `copy`, whose record is in the journal, that of its key; the record of the one before is removed."""
        before = self.store.put_copy(key, copy, confirmed=confirmed)
        if before is not None and before.number != copy.number:
            self._journal.release(before.number, key)

    def drop_copy(self, key: bytes) -> None:
        """Remove the copy of `key`, and its record, if there is one."""
        found = self.store.pop_copy(key)
        if found is not None:
            self._journal.release(found.number, key)

    def _release(self, item: Release, awaited: AwaitedCopies) -> None:
        key, version, deleted_at = item
        if self._ownership.is_leaving(slot_of(key)):
            self.adopt_key(key)
        if deleted_at is not None:
            # Before the removal of the copy: after a crash in between it would be a dirty delete once more.
            self._tombstones.add(key, version, deleted_at, durable=True)
            self.on_tombstone(key)
        for waiting in self._pending.get(key, ()):
            if waiting.copy.version <= version:
                waiting.released = True
                awaited.add(waiting)
            else:
                waiting.confirmed = True
        known = self.store.get(key)
        if known is not None and known.version <= version:
            self.drop_copy(key)
        else:
            self.store.confirm(key)

    def _begin(self, slots: Iterable[Range]) -> None:
        for first, last in slots:
            self.store.begin_slots(first, last)
            for waiting in self._pending_in(first, last):
                waiting.confirmed = False

    def _end(self, slots: Iterable[Range], awaited: AwaitedCopies) -> list[bytes]:
        released = []
        for first, last in slots:
            for waiting in self._pending_in(first, last):
                if not waiting.confirmed:
                    waiting.released = True
                    awaited.add(waiting)
                    released.append(waiting.key)
            for key in self.store.unconfirmed(first, last):
                self.drop_copy(key)
                released.append(key)
        return released

    def _pending_in(self, first: int, last: int) -> list[PendingCopy]:
        return [each for found in self._pending.values() if first <= found[0].slot <= last for each in found]

    def doubt(self, slots: set[int]) -> None:
        """Record that S3 may have later writes than the copies of `slots`, and those that are being journaled."""
        for slot in slots.intersection(self.store.slots):
            self.store.doubt(slot)
        for key, found in self._pending.items():
            for waiting in found if slot_of(key) in slots else ():
                waiting.copy = waiting.copy._replace(sure=False)

    def release_pending(self, ranges: Iterable[Range]) -> bool:
        """Remove copies of these slots that are queued for the journal as soon as they are in it."""
        found = [each for first, last in ranges for each in self._pending_in(first, last)]
        for waiting in found:
            waiting.released = True
        return bool(found)

    @property
    def pending_slots(self) -> set[int]:
        """Return the slots with copies that are queued for the journal."""
        return set(map(slot_of, self._pending))

    # ---- who may send

    def _is_over(self, sender: Sender, slots: set[int]) -> set[int]:
        """Return those of `slots` that another node has taken over from the sender, which does not say so itself.

        What the sender has sent of them before it handed them over may arrive after the first writes of the new
        owner, and would undo them: (1) it begins the slots anew, and sends what it has; (2) it hands them over; (3)
        the new owner's write arrives; (4) what was sent in step 1 arrives, and its END drops the write.

        Raises Unavailable if the sender has a newer ring than this node: the move may be over in it.
        """
        if not self._taken_over:
            return set()
        me = sender.address, sender.process
        over = {slot for slot in slots if (found := self._taken_over.get(slot)) is not None and found[:2] != me}
        if over and sender.epoch > self._ownership.epoch:
            raise Unavailable("this node does not have the ring yet by which the sender owns these slots")
        return over

    def _take_over(self, by: _TakenOver, slots: Iterable[Range]) -> None:
        """Record that the sender has taken slots over, unless the newest ring says that, or that it has not."""
        slot_map = self._ownership.slot_map
        if by.epoch <= slot_map.epoch:
            moves = overlaps([(first, last, None, 0) for first, last in slots], slot_map.pending)
            slots = [(first, last) for first, last, _, move in moves if _move(move) == by]
        for first, last in slots:
            self._taken_over.update(dict.fromkeys(range(first, last + 1), by))

    def update_ring(self) -> None:
        """Forget what the newest ring says, which `Ownership` has already.

        Of slots that were taken over it is all but what the ring has as pending by the same move: in a later one
        the owner before has handed nothing over yet.
        """
        slot_map = self._ownership.slot_map
        for slot in [slot for slot, epoch in self.ahead.items() if epoch <= slot_map.epoch]:
            del self.ahead[slot]
        if self._taken_over:
            moving: dict[int, _TakenOver] = {}
            for move in slot_map.pending:
                moving.update(dict.fromkeys(range(move.first, move.last + 1), _move(move)))
            self._taken_over = {
                slot: each
                for slot, each in self._taken_over.items()
                if each.epoch > slot_map.epoch or moving.get(slot) == each
            }

    def _check_session(self, sender: Sender) -> Reply | None:
        session, serial = self._sessions.get(sender.process, (0, 0))
        follows = sender.session == session and sender.serial == serial + 1
        begins = sender.session > session and sender.serial == 1
        return None if follows or begins else Reply.UNKNOWN_SESSION

    def _check_owner(self, sender: Sender, slots: set[int]) -> Reply | None:
        """Return STALE if the sender does not own `slots`. Raises Unavailable if this node serves one."""
        slot_map = self._ownership.slot_map
        if sender.epoch <= slot_map.epoch and not slots <= self._allowed_slots(sender, slot_map):
            return Reply.STALE
        # By the ring that is known here they are this node's: it was lost, and does not know that yet; or it hands
        # them over, and has not stopped them; or it has taken them over, and the sender does not know that yet.
        ownership = self._ownership
        mine = self.owned_by(ownership.me) & slots
        if len(ownership.leaving(mine)) < len(mine) or ownership.serves_any(slots):
            raise Unavailable("this node serves the slots, as far as it knows")
        return None

    def owned_by(self, address: str) -> set[int]:
        """Return the slots that the node at `address` owns by the newest ring."""
        return self._slots_of(address, "", self._ownership.slot_map.ranges)

    def _allowed_slots(self, sender: Sender, slot_map: SlotMap) -> set[int]:
        """Return the slots of which the sender is the owner, or the destination of a pending move."""
        return self._slots_of(sender.address, sender.process, (*slot_map.ranges, *slot_map.pending))

    def _slots_of(self, address: str, process: str, parts: Iterable[MapRange]) -> set[int]:
        if self._known_in is not self._ownership.slot_map:
            self._known_in = self._ownership.slot_map
            self._known.clear()
        found = self._known.get((address, process))
        if found is None:
            found = set()
            for first, last, node, _ in parts:
                if node.address == address and (not process or node.node_id in ("", process)):
                    found.update(range(first, last + 1))
            self._known[address, process] = found
        return found

    def _remember_epoch(self, epoch: int, slots: set[int]) -> None:
        """Remember frames of a newer ring than this node has, and that another node owns their slots."""
        if epoch > self._ownership.epoch:
            for slot in slots:
                self.ahead[slot] = max(epoch, self.ahead.get(slot, 0))
        if self._ownership.whole:
            whole = self._ownership.whole
            if len(slots) < MANY_SLOTS:
                others = [each for each in slots if each in whole]
            else:
                others = [each for first, last, _ in whole for each in range(first, last + 1) if each in slots]
            for slot in others:
                if not self._ownership.is_leaving(slot):
                    self._ownership.not_whole(slot)
                    self.store_roles()

    # ---- the journal's metadata

    def mark_journal(self) -> None:
        """Have versions that know no copies refuse this journal, before the first copy is in it."""
        if not self._marked:
            self._marked = True
            self._journal.defer(lambda disk: origin.mark(disk, copies=True))

    def store_roles(self) -> None:
        """Store what the journal is for which slot, before any later write."""
        if not self._storing_roles:
            self._storing_roles = True
            self._journal.defer(self._write_roles)

    def _write_roles(self, disk: Disk) -> None:
        self._storing_roles = False
        self.roles.whole.assign(self._ownership.whole)
        disk.set_metadata(NAME, self.roles.to_text())

    def set_role(self, slots: Iterable[int], role: Role) -> None:
        """Record what all records so far of `slots` are, before any later write."""
        number = self._journal.versions.seq
        for first, last in ranges_of(slots):
            self.roles.set_role(first, last, number, role)
        if role is Role.COPY:
            self.mark_journal()
        self.store_roles()

    # ---- the start

    def recover(self, record: Record, size: int, damage: str) -> bool:
        """Hold a record that was found at the start, if it is a copy; see `RecoveredCopies`."""
        key = record.cache_key
        slot = slot_of(key)
        self._recovered.add(slot)
        role = self.roles.role(slot, record.stored_as, copy=record.copy)
        if role is Role.OWN:
            return False
        if role is Role.DROPPED:
            self._journal.release(record.stored_as, key)
            return True
        # This node's own writes, which it has handed over, have no flag of their own.
        sure = record.copy and not record.doubtful
        self.hold_copy(key, Copy(record.version, record.stored_as, size, record.value is None, bool(damage), sure))
        return True

    def recovered(self) -> None:
        """Complete the start: all records were found."""
        self.roles.keep(self._recovered)
        self._recovered.clear()
        marked = self._marked = len(self.store) > 0
        self._journal.defer(lambda disk: origin.mark(disk, copies=marked))

    def newest_version(self, key: bytes) -> Version | None:
        """Return the version of the copy of `key`, or of the latest pending one; None without one."""
        pending = self._pending.get(key)
        if pending:
            return pending[-1].copy.version
        known = self.store.get(key)
        return known.version if known is not None else None


def _move(move: MapRange) -> _TakenOver:
    return _TakenOver(move.node.address, move.node.node_id, move.owned_since)
