"""Coordination. The owner's side of copies: a write is complete when the holders of its slot have it too.

    append ─▶ commit begins ──┬─▶ fsync of this node's journal ─┬─▶ dirty entry, acknowledged, served
                              └─▶ a frame to each holder ───────┘

The journal hands every commit over when it begins (`begun`), so that both go on at the same time, and completes at
its end what waits for no holder any more. What cannot be copied fails with NotCopied: its record is removed here,
and taken back at the holders, which get the key's earlier write again if it is not in S3.

*Which holders.* All that the newest ring lists for the slot; of a slot that was just taken over, the node that it
was taken from, and the complete holders of that one. Without these: (1) a slot is handed over, and its new owner
acknowledges a write, which only it and the old one have; (2) both are lost before a router knows that the slot was
taken over; (3) the slot goes to a holder of the old owner, which serves what was before the write. A change of the
ring changes for which ones the writes in flight wait.

*Too few holders, or one that fails*: `copy_policy`.

*Releases.* What S3 has is released at the holders, in time with the next frame. A delete is not over, and a write
through S3 is not acknowledged, while a holder may have an older write of the key: when it gets the slot it would
serve that.

*Before slots are served*: see `awaits_sync`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from milena_cache.copies.copy_policy import REQUIRE, is_short, not_allowed
from milena_cache.copies.frames import (
    CopiedRecord,
    Release,
    Sender,
    encode_release,
    record_head,
    record_parts,
)
from milena_cache.copies.holder_link import Group, HolderLink, Key, Links, ListedRun
from milena_cache.copies.pending import PendingCopy
from milena_cache.handover.frames import Range, ranges_of
from milena_cache.handover.tombstones import Tombstones
from milena_cache.journal.commit import QueuedWrite
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.record import Damaged, decode
from milena_cache.membership.ownership import Ownership
from milena_cache.objects.version import Version
from milena_cache.objects.write_request import CopiesPolicy
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writes.durable import NotCopied
from milena_common.api.errors import DeadlineExceeded, InvalidRequest
from milena_common.cluster.slot_map import Holder as ListedHolder
from milena_common.cluster.slot_map import MapNode, MapRange
from milena_common.cluster.slot_runs import overlaps
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.resp.encoding import command
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

# Times are looked at so often while something waits, at least.
LOOK_SECONDS = 0.05
# Timeout of a request for the copy of a write whose record here is damaged.
COLLECT_SECONDS = 2.0
# Bytes of the records of one group: of a frame, with some room.
GROUP_BYTES = 2**20 - 2**16

# The holders of a slot as links; None for a slot that needs none.
Holders = tuple[HolderLink, ...]


# Slots as first and last, their holders, and since which epoch they are this node's.
_Part = tuple[int, int, tuple[ListedHolder, ...], int]


class _Before(NamedTuple):
    """The owner before of slots that were taken over.

    kept: the addresses of those that had everything then: the owner, and its complete holders
    """

    node: MapNode
    kept: frozenset[str]


class _TakenRun(NamedTuple):
    """Slots `first` to `last` that this node has taken over from `before`, and owns since the epoch `since`."""

    first: int
    last: int
    before: _Before
    since: int


class Replication:
    """The copies of one node's writes at other nodes.

    is_pending: returns True while a write of a key is queued for the journal, or not complete
    unpromoted: returns this node's slots of which not all that it has is dirty
    on_change: called when there may be something else to report to routers
    on_synced: called when holders have everything of more slots
    failed: number of writes that were not copied
    sent: number of records that were given to a holder for the first time
    """

    def __init__(
        self,
        ownership: Ownership,
        journal: Journal[DirtyEntry],
        dirty: Dirty,
        tombstones: Tombstones,
        links: Links,
        clock: Clock,
        rng: Callable[[], float],
        timeout: float,
        policy: CopiesPolicy,
    ) -> None:
        self.is_pending: Callable[[bytes], bool] = lambda key: False
        self.unpromoted: Callable[[], Iterable[int]] = tuple
        self.on_change: Callable[[], None] = lambda: None
        self.on_synced: Callable[[], None] = lambda: None
        self.failed = 0
        self.sent = 0
        self._ownership = ownership
        self._journal = journal
        self._dirty = dirty
        self._tombstones = tombstones
        self._links_to = links
        self._clock = clock
        self._rng = rng
        self._timeout = timeout
        self._policy = policy
        # By gRPC address.
        self._links: dict[str, HolderLink] = {}
        # By slot the holders that must have its writes, None if none must; and the slots with too few of them.
        self._holders: list[Holders | None] = [None] * SLOTS
        self._short = bytearray(SLOTS)
        self._parts: list[tuple[int, int, Holders]] = []  # the same as runs, without those that have none
        self._keys: dict[Key, Key] = {}
        self._missing: int | None = None
        self._target = 0
        # Slots of which the ring does not know yet that this node, their owner, has collected them.
        self._collecting: list[Range] = []
        # Slots that were taken over.
        self._taken: list[_TakenRun] = []
        # The groups of the commit in progress, and its writes that wait for no holder.
        self._begun: list[Group] = []
        self._free: list[QueuedWrite[Any]] | None = None
        self._groups: dict[Group, None] = {}
        self._sessions = 0
        # What was found for reports since something changed.
        self._reports: dict[bool, tuple[tuple[int, int, str], ...]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._idle: list[asyncio.Future[None]] = []
        journal.copying = self

    # ---- the ring

    def update_ring(self) -> None:
        """Take over the holders of the newest ring, which `Ownership` has already."""
        ownership, slot_map = self._ownership, self._ownership.slot_map
        if not (slot_map.copies_wanted > 1 or self._target):
            return
        self._target = target = slot_map.copies_wanted if slot_map.copies_wanted > 1 else 0
        own = ownership.own_ranges if target else []
        short = bytearray(SLOTS)
        for first, last, _, _ in own:
            short[first : last + 1] = b"\1" * (last + 1 - first)
        parts: list[_Part] = []
        collecting: list[Range] = []
        copies = [(*each, 0) for each in slot_map.copies]
        for first, last, owned, (_, _, holders, _) in overlaps(own, copies):
            others = tuple(each for each in holders if each.node.address != ownership.me)
            if len(others) < len(holders):
                collecting.append((first, last))
            parts.append((first, last, others, owned.owned_since))
            if not is_short(target, len(others)):
                short[first : last + 1] = bytes(last + 1 - first)
        parts += self._taken_parts(own, short)
        runs: dict[str, tuple[MapNode, list[ListedRun]]] = {}
        for node in self._future_holders():
            runs[node.address] = node, []
        for first, last, holders, since in sorted(parts, key=itemgetter(0)):
            for each in holders:
                key = self._keys.setdefault((since, each.since), (since, each.since))
                runs.setdefault(each.node.address, (each.node, []))[1].append((first, last, key))
        self._connect(runs)
        found: list[Holders | None] = [None] * SLOTS
        self._parts = []
        for first, last, holders, _ in parts:
            links = tuple(self._links[each.node.address] for each in holders)
            if links:
                found[first : last + 1] = [links] * (last + 1 - first)
                self._parts.append((first, last, links))
        same = found == self._holders and short == self._short
        self._holders, self._short, self._collecting = found, short, collecting
        self._invalidate_reports()
        if not same:
            self._regroup()
        self.on_change()

    def _future_holders(self) -> list[MapNode]:
        """Return the nodes that keep copies of slots as soon as they are taken over.

        They are connected before that: the first writes do not wait for it.
        """
        slot_map, me = self._ownership.slot_map, self._ownership.me
        coming = [part for part in slot_map.pending if part.node.address == me] if self._target else []
        if not coming:
            return []
        owners = {owned.node for _, _, _, owned in overlaps(coming, slot_map.ranges)}
        copies = [(*each, 0) for each in slot_map.copies]
        holders = {each.node for _, _, _, copy in overlaps(coming, copies) for each in self._complete_of(copy[2])}
        return sorted(node for node in owners | holders if node.address != me)

    def _complete_of(self, holders: Iterable[ListedHolder]) -> list[ListedHolder]:
        """Return the complete ones of `holders`, without this node."""
        return [each for each in holders if each.complete and each.node.address != self._ownership.me]

    def _with_holders(self, first: int, last: int) -> list[tuple[int, int, list[ListedHolder]]]:
        """Return the slots `first` to `last` in parts with the same complete holders by the ring."""
        copies = [(*each, 0) for each in self._ownership.slot_map.copies]
        found: list[tuple[int, int, list[ListedHolder]]] = []
        free = first
        for start, stop, _, copy in overlaps([(first, last, None, 0)], copies):
            if free < start:
                found.append((free, start - 1, []))
            found.append((start, stop, self._complete_of(copy[2])))
            free = stop + 1
        if free <= last:
            found.append((free, last, []))
        return found

    def _taken_parts(self, own: Sequence[MapRange], short: bytearray) -> list[_Part]:
        """Return the slots that were taken over, and that no ring has as this node's yet; forget what is over.

        `short` gets those of them that have too few holders.
        """
        if not self._taken:
            return []
        taken = self._taken if self._target else []
        pending = [(first, last, None, since) for first, last, since in self._ownership.taken]
        kept: list[_TakenRun] = []
        parts: list[_Part] = []
        for first, last, run, move in overlaps(sorted(taken, key=itemgetter(0)), pending):
            if run.since == move[3]:
                for start, stop, complete in self._with_holders(first, last):
                    node = run.before.node
                    others = (each for each in complete if each.node.address != node.address)
                    holders = (ListedHolder(node, True), *others)
                    parts.append((start, stop, holders, run.since))
                    if is_short(self._target, len(holders)):
                        short[start : stop + 1] = b"\1" * (stop + 1 - start)
                kept.append(run._replace(first=first, last=last))
        for first, last, run, owned in overlaps(sorted(taken, key=itemgetter(0)), own):
            # Until its BEGIN was sent, it must be known that the holder has everything.
            node = run.before.node
            link = self._links.get(node.address)
            if run.since == owned.owned_since and link is not None and not link.is_synced(first):
                before = _Before(node, frozenset((node.address,)))
                kept.append(run._replace(first=first, last=last, before=before))
        self._taken = kept
        return parts

    def _connect(self, runs: dict[str, tuple[MapNode, list[ListedRun]]]) -> None:
        for address in [address for address in self._links if address not in runs]:
            self._links.pop(address).close()
        unready = frozenset(self.unpromoted())
        for address, (node, listed) in runs.items():
            link = self._links.get(address)
            if link is None:
                link = self._links[address] = HolderLink(
                    node, self, self._links_to, self._clock, self._rng, self._timeout
                )
            kept = {
                slot
                for each in self._taken
                if address in each.before.kept
                for slot in range(each.first, each.last + 1)
            }
            link.update(node, listed, unready, kept)
        if self._links and self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def took(self, ranges: Sequence[Range]) -> None:
        """Have the node that has handed over these slots, and its holders, keep copies before the first write."""
        slot_map = self._ownership.slot_map
        if slot_map.copies_wanted <= 1:
            return
        taken = [(first, last, None, since) for first, last, since in self._ownership.taken]
        new = [(first, last, None, 0) for first, last in sorted(ranges)]
        for first, last, _, move in overlaps(new, taken):
            for start, stop, _, owned in overlaps([(first, last, None, 0)], slot_map.ranges):
                if owned.node.address == self._ownership.me:
                    continue
                for begin, end, complete in self._with_holders(start, stop):
                    kept = frozenset((owned.node.address, *(each.node.address for each in complete)))
                    self._taken.append(_TakenRun(begin, end, _Before(owned.node, kept), move[3]))
        self.update_ring()

    def promoted(self) -> None:
        """Send what has become this node's: slots are not held back any more, or wait for holders only."""
        if self._target:
            self.update_ring()

    def awaits_sync(self, slot: int) -> bool:
        """Return True if a complete holder may lack something that this node has of `slot`.

        Only what a complete holder has may be served. Interleaving that this avoids: (1) a write is in this node's
        journal, and not at the holder, so it was not acknowledged; (2) this process ends; (3) the next one finds
        the record, and a read returns the write; (4) this node is lost, the holder is the owner, and a read returns
        the write before.
        """
        links = self._holders[slot]
        return links is not None and any(link.is_complete(slot) and not link.is_synced(slot) for link in links)

    # ---- commits, as the journal's `Copying`

    def begun(self, batch: Sequence[QueuedWrite[Any]]) -> None:
        """Send the records of a commit that has begun to the holders."""
        self._begun, self._free = [], None
        if not self._target:
            return
        free: list[QueuedWrite[Any]] = []
        groups: dict[Holders, Group] = {}
        holders, short = self._holders, self._short
        now = self._clock.now()
        for write in batch:
            token = write.token
            if type(token) is PendingCopy:
                free.append(write)
                continue
            slot = slot_of(token.key)
            links = holders[slot]
            is_too_few = short[slot]
            if links is None and not is_too_few:
                free.append(write)
                continue
            target = () if is_too_few or links is None else links
            group = groups.get(target)
            # Writes of a transaction are in one frame, which the holder makes durable as a whole.
            if group is None or (group.size > GROUP_BYTES and not write.joined):
                group = groups[target] = Group(target, now)
                group.failed = self._why_not(slot)
                self._begun.append(group)
            group.writes.append(write)
            if not group.failed:
                raw = write.raw
                head = (
                    record_parts(raw, unconfirmed=True)[0]
                    if isinstance(token, DirtyEntry) and token.belief.late
                    else record_head(len(raw))
                )
                group.parts += (head, raw)
                group.size += len(head) + len(raw)
        self._free = free
        for group in self._begun:
            self._groups[group] = None
            if not group.failed:
                self.sent += len(group.writes) * len(group.links)
                for link in group.links:
                    link.send_group(group)

    def committed(self, batch: list[QueuedWrite[Any]]) -> list[QueuedWrite[Any]]:
        """Return the writes of a commit that are complete with it."""
        free, begun = self._free, self._begun
        self._free, self._begun = None, []
        if free is None:
            return batch
        complete = free
        for first in begun:
            for group in _newest(first):
                group.waiting.discard(None)
                if group.failed:
                    self._fail(group, group.failed)
                elif not group.waiting:
                    self._done(group)
                    complete = [*complete, *group.writes]
        self._wake_idle()
        return complete

    def rolled_back(self, batch: Sequence[QueuedWrite[Any]]) -> None:
        """Take the writes of a commit back at the holders: nothing of it has taken effect."""
        begun, self._begun, self._free = self._begun, [], None
        undo = [(group, write) for first in begun for group in _newest(first) for write in group.writes]
        for group, _ in undo:
            self._done(group)
        if undo:
            # When the writes have failed, so that later ones of the same keys are distinguished from these.
            asyncio.get_running_loop().call_soon(self._undo_all, undo)
        self._wake_idle()

    def _why_not(self, slot: int) -> str:
        if self._short[slot]:
            return f"the ring has fewer holders for slot {slot} than COPIES says"
        return next(
            (f"node {link.node.address}: {link.failing}" for link in self._links_of(slot) if link.failing), ""
        )

    def _links_of(self, slot: int) -> Holders:
        return self._holders[slot] or ()

    def cannot_copy(self, key: bytes) -> str:
        """Return why no write of `key` can be copied now, "" if it can be tried."""
        return self._why_not(slot_of(key)) if self._target else ""

    # ---- what links report

    def confirmed(self, link: HolderLink, group: Group) -> None:
        """The holder has the writes of `group`."""
        for each in _newest(group):
            if each.done:
                continue
            each.waiting.discard(link)
            if not each.waiting and not each.failed:
                self._done(each)
                self._journal.complete(each.writes)
        self._wake_idle()

    def rejected(self, link: HolderLink, group: Group, why: str) -> None:
        """The holder has none of the writes of `group`."""
        for each in _newest(group):
            if not each.done:
                self._fail(each, f"node {link.node.address}: {why}")

    def changed(self) -> None:
        """A link has something else to report."""
        self._invalidate_reports()
        for group in list(self._groups):
            failing = next((link for link in group.links if link in group.waiting and link.failing), None)
            if failing is not None:
                self._fail(group, f"node {failing.node.address}: {failing.failing}")
        self.on_change()
        self.on_synced()

    def _done(self, group: Group) -> None:
        group.done = True
        self._groups.pop(group, None)

    def _fail(self, group: Group, why: str) -> None:
        """Fail the writes of `group`, at the latest when their commit has ended."""
        if group.done:
            return
        group.failed = group.failed or why
        if None in group.waiting:
            return
        self._done(group)
        self.failed += len(group.writes)
        for write in group.writes:
            self._journal.release(write.seq, write.token.key)
            write.fail(not_allowed(why) if self._policy == REQUIRE else NotCopied(why))
        self._undo_all([(group, write) for write in group.writes])
        self._journal.wake_watchers()
        self._wake_idle()

    def _undo_all(self, writes: Iterable[tuple[Group, QueuedWrite[Any]]]) -> None:
        for group, write in writes:
            token = write.token
            self._undo(group.links, token.key, token.version)

    def _undo(self, links: Holders, key: bytes, version: Version) -> None:
        """Have the holders give up a write that was not completed; they get the one before again.

        A later write that is in flight takes its place by itself.
        """
        if not links or self.is_pending(key):
            return
        item = None
        entry = self._dirty.get(key)
        if entry is not None:
            try:
                item = self._record_of(entry, restored=True)
            except Damaged:
                item = None
        for link in links:
            if not link.lists(slot_of(key)):
                continue
            if item is not None:
                link.send_item(item)
            else:
                link.release(Release(key, version))

    def _regroup(self) -> None:
        """Have the writes in flight wait for the holders of the newest ring."""
        for group in list(self._groups):
            holders = {self._holders[slot_of(write.token.key)] or () for write in group.writes}
            if holders == {group.links} and not group.failed:
                continue
            self._done(group)
            by_target: dict[tuple[Holders, bool], Group] = {}
            for write in group.writes:
                slot = slot_of(write.token.key)
                target = self._links_of(slot), bool(self._short[slot])
                new = by_target.get(target)
                if new is None:
                    new = by_target[target] = Group(target[0], group.began)
                    new.failed = group.failed or (self._why_not(slot) if target[1] else "")
                    # Those that have confirmed it are in none.
                    new.waiting = {link for link in target[0] if link in group.waiting or link not in group.links}
                    if None in group.waiting:
                        new.waiting.add(None)
                new.writes.append(write)
                head = record_parts(write.raw, unconfirmed=write.token.belief.late)[0]
                new.parts += (head, write.raw)
                new.size += len(head) + len(write.raw)
            group.successors = list(by_target.values())
            for new in group.successors:
                self._groups[new] = None
                for link in new.links:
                    if link not in group.links and not new.failed:
                        link.send_group(new)
                if new.failed:
                    self._fail(new, new.failed)
                elif not new.waiting:
                    self._done(new)
                    self._journal.complete(new.writes)
        self._wake_idle()

    # ---- releases

    def retired(self, key: bytes, version: Version) -> None:
        """Release the copies of `key`: S3 has `version` of it, or a later one, or it was given up."""
        links = self._links_of(slot_of(key))
        if not links or self._ownership.has_handed_over(slot_of(key)):
            return  # the holders follow the new owner
        if not self.is_pending(key):
            # Whatever was sent of the key is over, also a write that failed.
            newest = self._journal.versions
            version = max(version, Version(newest.epoch, newest.seq))
        for link in links:
            link.release(Release(key, version))

    def tombstone_added(self, key: bytes) -> None:
        """Have the holders keep a tombstone too."""
        tombstone = self._tombstones.get(key)
        if tombstone is None:
            return
        for link in self._links_of(slot_of(key)):
            link.release(Release(key, tombstone.version, tombstone.at))

    async def has_released(self, key: bytes) -> bool:
        """Return True once no holder has an older write of `key` than S3, as far as it was released here."""
        for link in self._links_of(slot_of(key)):
            if not await link.has_released(key):
                return False
        return True

    # ---- what links request

    def sender(self, session: int, serial: int) -> Sender:
        """Return the sender of a frame."""
        ownership = self._ownership
        return Sender(ownership.epoch, ownership.me, ownership.node_id, session, serial)

    def next_session(self) -> int:
        """Return a number that no session had."""
        self._sessions += 1
        return self._sessions

    def keys_of(self, slots: set[int]) -> Iterable[bytes]:
        """Return the keys of `slots` that are dirty or have a tombstone."""
        keys = [key for key in self._dirty if slot_of(key) in slots]
        return [*keys, *(key for key in self._tombstones.keys_of(slots) if key not in self._dirty)]

    def item_of(self, key: bytes) -> bytes | None:
        """Return the dirty write of `key`, or its tombstone, as an item; None without one. Raises Damaged."""
        entry = self._dirty.get(key)
        if entry is not None:
            return self._record_of(entry, restored=False)
        tombstone = self._tombstones.get(key)
        if tombstone is None:
            return None
        return encode_release(Release(key, tombstone.version, tombstone.at))

    async def item_elsewhere(self, key: bytes, link: HolderLink) -> bytes | None:
        """Return the copy of `key`, whose record here is damaged, that another complete holder has, as an item.

        If none has it, the holder at `link` is to keep its own, if it is not older.
        """
        slot = slot_of(key)
        for other in self._links_of(slot):
            if other is link or not other.is_complete(slot) or other.failing:
                continue
            ownership = self._ownership
            sent = command(b"MILENA.COLLECT", b"WRITES", b"%d" % ownership.epoch, ownership.me.encode(), key)
            reply = await self._links_to.request(other.node.resp_address, sent, COLLECT_SECONDS)
            raw = reply[0] if isinstance(reply, list) and len(reply) == 1 else None
            entry = self._dirty.get(key)
            if isinstance(raw, bytes) and entry is not None and self._is_sound(raw, entry):
                return b"".join(record_parts(raw))
        entry = self._dirty.get(key)
        if entry is None:
            return self.item_of(key)
        epoch, seq = entry.version
        return encode_release(Release(key, Version(epoch, seq - 1)))

    @staticmethod
    def _is_sound(raw: bytes, entry: DirtyEntry) -> bool:
        try:
            record, _ = CopiedRecord(memoryview(raw), False, False).decode(with_value=True)
        except InvalidRequest:
            return False
        return (record.cache_key, record.version) == (entry.key, entry.version)

    def leaving(self, slots: Collection[int]) -> set[int]:
        """Return those of `slots` that this node hands over, or has handed over."""
        return self._ownership.leaving(slots)

    def _record_of(self, entry: DirtyEntry, *, restored: bool) -> bytes | None:
        number = entry.number if entry.journaled else entry.shadowed_seq
        if not number:
            return None
        raw = self._journal.disk.read_record(number)
        if raw is None:
            raise Damaged("is gone")
        decode(number, raw, with_value=False)
        since = self._ownership.slot_map.target(slot_of(entry.key)).owned_since
        unconfirmed = not entry.journaled or entry.belief.owned_since < since
        return b"".join(record_parts(raw, restored=restored, unconfirmed=unconfirmed))

    def pending_items(self, slots: set[int]) -> list[bytes]:
        """Return the writes of `slots` that are not durable everywhere, as items, in their order."""
        return [
            b"".join(record_parts(write.raw, unconfirmed=write.token.belief.late))
            for group in self._groups
            if not group.failed
            for write in group.writes
            if slot_of(write.token.key) in slots
        ]

    # ---- time

    async def _look(self) -> None:
        """Look at the times of what waits, while there are holders."""
        try:
            while self._links:
                await self._clock.sleep(min(LOOK_SECONDS, self._timeout / 4))
                now = self._clock.now()
                oldest: dict[HolderLink, float] = {}
                for group in list(self._groups):
                    self._expire(group)
                    for link in group.waiting:
                        if link is not None:
                            oldest[link] = min(group.began, oldest.get(link, group.began))
                for link in list(self._links.values()):
                    link.look_at_time(now, oldest.get(link))
        finally:
            self._looking = None

    def _expire(self, group: Group) -> None:
        now = asyncio.get_running_loop().time()
        for write in group.writes:
            if now >= write.deadline and not write.future.done():
                text = "the copies were not confirmed in time; the write may still take effect"
                write.future.set_exception(DeadlineExceeded(text))

    async def wait_idle(self) -> None:
        """Return when no write waits for holders."""
        while self._groups:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter

    def _wake_idle(self) -> None:
        if self._idle and not self._groups:
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    # ---- reports

    @property
    def target(self) -> int:
        """Return in how many journals an acknowledged write must be by the ring; 0 in a ring without copies."""
        return self._target

    @property
    def slots_with_missing_copies(self) -> int:
        """Return of how many of this node's slots fewer nodes than are wanted have everything."""
        if not self._target:
            return 0
        if self._missing is None:
            self._missing = sum(self._short)
            for first, last, links in self._parts:
                self._missing += self._missing_of(links, first, last + 1)
        return self._missing

    def _missing_of(self, links: Holders, first: int, end: int) -> int:
        """Return of how many of these slots, whose holders are `links`, too few have everything."""
        # For all slots at once: numbers with a byte for each slot, which is 1 or 0.
        tables = [int.from_bytes(link.synced[first:end]) for link in links if not link.failing]
        counted = int.from_bytes(b"\1" * (end - first)) & ~int.from_bytes(self._short[first:end])
        # By a number of holders, the slots of which so many have everything at least.
        at_least = [counted] + [0] * (self._target - 1)
        for table in tables:
            for number in range(len(at_least) - 1, 0, -1):
                at_least[number] |= at_least[number - 1] & table
        return (counted & ~at_least[-1]).bit_count()

    @property
    def failing(self) -> dict[str, str]:
        """Return why holders fail, by address."""
        return {address: link.failing for address, link in self._links.items() if link.failing}

    def _invalidate_reports(self) -> None:
        self._reports.clear()
        self._missing = None

    def completed(self) -> tuple[tuple[int, int, str], ...]:
        """Return the slots whose listed filling holders have everything: first and last slot and address.

        This node is one of them for those of its own slots that it had to collect, and has.
        """
        return self._reported(False)

    def failed_holders(self) -> tuple[tuple[int, int, str], ...]:
        """Return the slots whose holders fail: first and last slot and address."""
        return self._reported(True)

    def _reported(self, failed: bool) -> tuple[tuple[int, int, str], ...]:
        if failed not in self._reports:
            found = [
                (first, last, address)
                for address, link in self._links.items()
                if bool(link.failing) == failed
                for first, last in (_ranges_of(link.runs) if failed else _filled(link))
            ]
            if self._collecting and not failed:
                slots = {slot for first, last in self._collecting for slot in range(first, last + 1)}
                slots.difference_update(self.unpromoted())
                found += [(first, last, self._ownership.me) for first, last in ranges_of(slots)]
            self._reports[failed] = tuple(sorted(found))
        return self._reports[failed]

    async def close(self) -> None:
        """End all links."""
        if self._looking is not None:
            self._looking.cancel()
        for link in self._links.values():
            link.close()
        self._links.clear()


def _ranges_of(runs: Sequence[ListedRun]) -> list[Range]:
    joined: list[Range] = []
    for first, last, _ in runs:
        if joined and joined[-1][1] == first - 1:
            first = joined.pop()[0]
        joined.append((first, last))
    return joined


def _filled(link: HolderLink) -> list[Range]:
    """Return the slots of which a holder that is listed as filling has everything."""
    found: list[ListedRun] = []
    for first, last, key in link.runs:
        if key[1]:
            for synced, group in groupby(range(first, last + 1), link.synced.__getitem__):
                if synced:
                    slots = list(group)
                    found.append((slots[0], slots[-1], key))
    return _ranges_of(found)


def _newest(group: Group) -> list[Group]:
    """Return the groups that have taken the place of `group`, or the group itself."""
    if not group.successors:
        return [group]
    return [each for successor in group.successors for each in _newest(successor)]
