"""Pure. The newest ring that this node has: the slots that it serves now, and the owners of the others.

The ring with the greatest epoch counts, from whichever router it came. It is kept while no router can be reached,
so that the loss of a router stops no reads or writes.

For each slot the ring has the epoch since which its owner has owned it without a break, and entries are stamped
with it (`owned_since`). "This node owns the slot" alone would not be enough to serve an entry: (1) the node keeps
an entry; (2) the slot moves to another node, which acknowledges a write; (3) the slot moves back, and the entry of
step 1 is older than an acknowledged write. The stamp is then smaller than the slot's new epoch, and the entry is
revalidated first.

In a ring with copies of dirty writes (`milena_cache.copies`) a slot that comes to this node because its owner was
lost is served only when this node has *collected* what the nodes that hold copies have of it. Until then, S3 may
have older objects than were acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from itertools import groupby
from operator import lt
from typing import NamedTuple

from milena_cache.membership.slot_epochs import SlotEpochs
from milena_common.api.errors import FailedPrecondition, Moved, NodeLost, NoNodes, TryAgain
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap, Target
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.resp.identity import Identity

# In `Ownership.since`: the slot is served by another node, or by none.
ELSEWHERE = -1
# In `Ownership.whole`: this node has everything of the slot. COLLECTED: also where the ring lists it as a holder
# still, for it has taken over or collected the slot after that ring gave it to this node.
WHOLE = 1
COLLECTED = 2
# After how many seconds to try again what is about a slot that is being handed over.
RETRY_SECONDS = 0.1
# The same for a slot that has no owner, which takes until a node returns.
OWNERLESS_RETRY_SECONDS = 1.0

# Slots as first and last, both included.
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class RingNode:
    """A node as `CLUSTER SLOTS`, `SHARDS` and `NODES` show it.

    address: its gRPC address, host:port
    resp_address: host:port of its RESP server, "" if it has none
    resp_tls_address: the same with TLS; both are the same if it serves TLS only
    id: its name for Redis clients, 40 hexadecimal digits that depend on `address` alone
    ranges: its slots as (first, last), both included, ascending; adjacent ranges are merged
    """

    address: str
    resp_address: str
    resp_tls_address: str
    id: str
    ranges: tuple[tuple[int, int], ...]


class Moves(NamedTuple):
    """What this node has done in moves of slots. The epochs are those of the ownership that it concerns.

    taken: since which epoch this node owns a slot that was handed over to it
    handed_over, stopped: since which epoch this node owned a slot that it has handed over, or does not serve while
        it hands it over
    uncollected: since which epoch it owns a slot by the ring, and has not collected what others have of it
    """

    taken: SlotEpochs
    handed_over: SlotEpochs
    stopped: SlotEpochs
    uncollected: SlotEpochs


def served_since(slot_map: SlotMap, me: str, node_id: str, moves: Moves) -> list[int]:
    """Return by slot the epoch since which the process `node_id` at `me` serves it, or ELSEWHERE.

    In a ring of nodes that fence (`released_epoch`), two more conditions hold than that the ring has the address:

    - The entry is of this process. Otherwise: (1) a process stops, and another one starts at the address; (2) a
      ring without the first one is on its way, and the new owner of its slots has acknowledged writes; (3) the
      second process serves the slots by the older ring.
    - Slots owned since an epoch that is not released may still be served by the lost owner before. Only what that
      owner itself has handed over is served sooner.
    """
    since = _granted(slot_map, me, node_id, moves.taken)
    for slots in (moves.handed_over, moves.stopped):
        for first, last, owned_since in slots:
            number = last + 1 - first
            if since[first : last + 1] == [owned_since] * number:
                since[first : last + 1] = [ELSEWHERE] * number
                continue
            for slot in range(first, last + 1):
                if since[slot] == owned_since:
                    since[slot] = ELSEWHERE
    for first, last, _ in moves.uncollected:
        since[first : last + 1] = [ELSEWHERE] * (last + 1 - first)
    return since


def _granted(slot_map: SlotMap, me: str, node_id: str, taken: SlotEpochs) -> list[int]:
    """Return `served_since` without regard to slots that are stopped or were handed over."""
    since = [ELSEWHERE] * SLOTS
    released = slot_map.released_epoch
    for first, last, node, owned_since in slot_map.ranges:
        if _is_process(slot_map, node, me, node_id) and (not released or owned_since <= released):
            since[first : last + 1] = [owned_since] * (last + 1 - first)
    if taken:
        for part in (*slot_map.ranges, *slot_map.pending):
            if _is_process(slot_map, part.node, me, node_id):
                for first, last, epoch in taken.within(part.first, part.last):
                    if epoch == part.owned_since:
                        since[first : last + 1] = [epoch] * (last + 1 - first)
    return since


def _is_process(slot_map: SlotMap, node: MapNode, me: str, node_id: str) -> bool:
    """True if `node` is the process `node_id` at `me`; nodes and rings without ids are taken by the address."""
    if node.address != me:
        return False
    return not slot_map.released_epoch or not node_id or node.node_id in ("", node_id)


class Ownership:
    """The newest ring of the process `node_id` at the gRPC address `me`, and the slots that it serves now.

    These are plain attributes, since every request reads them:

    epoch: the epoch of the ring; 0 while none is known
    since: by slot, the epoch since which this node owns it, or ELSEWHERE if it does not serve it now. The same list
        for the lifetime of the process, changed in place: a reference to it never becomes stale
    single: True if this node serves every slot since one and the same epoch, which is `since[0]`
    slots: how many slots this node serves

    `since` is computed from the ring, the moves of slots and the fence, by `_recompute` alone. Nothing awaits
    between a change and its result there, so every request decides by the old state or by the new one. Methods that
    change it return True if this node lost or gained slots, the fence disregarded. Each of them computes it once,
    for all the ranges that it gets.
    """

    def __init__(self, me: str, node_id: str = "") -> None:
        self.me = me
        self.node_id = node_id
        self.epoch = 0
        self.since = [ELSEWHERE] * SLOTS
        self.single = False
        self.slots = 0
        self._nodes: tuple[RingNode, ...] | None = ()
        self._map = SlotMap.empty()
        self._moves = Moves(SlotEpochs(), SlotEpochs(), SlotEpochs(), SlotEpochs())
        # By slot the epoch of the latest move that this process has promised not to complete.
        self._abandoned = SlotEpochs()
        # What `since` is while the fence is open.
        self._unfenced = [ELSEWHERE] * SLOTS
        self._closed: NoNodes | None = None
        # True if the last `update` took slots that were served here, the fence disregarded.
        self.lost_slots = False
        # True if the process before this one was a member of a ring of nodes that fence.
        self.was_fenced = False
        # True if slots are gated until they are collected; see `uncollected`.
        self.collects = False
        # Slots of which this node has everything that was acknowledged and S3 does not have: WHOLE or COLLECTED.
        self.whole = SlotEpochs()
        # Slots of this process, by the ring, that are not whole: not served.
        self.uncollected = self._moves.uncollected
        # Slots that their owner is about to release to this node: requests that it redirects wait here.
        self.expected = SlotEpochs()
        # Stopped slots that were just released: their destination serves them, or will in a moment.
        self._redirected = SlotEpochs()
        # Called after each change of `since`.
        self.on_change: Callable[[], None] = lambda: None

    def update(self, slot_map: SlotMap) -> bool:
        """Take over a ring that is newer than the known one, or the same with a greater released epoch.

        A slot with a new `owned_since` counts as gained: another node may have owned it in between.
        """
        if slot_map.epoch == self.epoch and slot_map.released_epoch > self._map.released_epoch:
            # Routers that do not agree may have two rings with one epoch: a release is of one of them.
            if slot_map.ranges != self._map.ranges or slot_map.pending != self._map.pending:
                return False
        elif slot_map.epoch <= self.epoch:
            return False
        self.epoch = slot_map.epoch
        self._map = slot_map
        self._nodes = None
        self._drop_past_moves()
        if self.collects:
            self._update_whole()
        before = self._unfenced
        changed = self._recompute()
        # Epochs only grow, and ELSEWHERE is less than any.
        self.lost_slots = changed and any(map(lt, self._unfenced, before))
        return changed

    def _drop_past_moves(self) -> None:
        """Drop what this node did in moves that the ring has no more."""
        taken, handed_over, stopped, _ = self._moves
        if not (taken or handed_over or stopped):
            return
        allowed = _granted(self._map, self.me, self.node_id, taken)
        for slots in (taken, handed_over, stopped):
            slots.keep_equal(allowed)

    def _update_whole(self) -> None:
        """Compute which slots are whole, and which of this node's are to be collected.

        A slot stays whole while the rings have no other owner of it: it may be this node's since a later epoch, if
        its process was replaced, or if the other side of a move was lost. A slot that this node has taken over is
        whole, also in a ring in which its last owner was lost: what that node's holders have is older than what
        this node has acknowledged.

        A ring that lists the owner itself as a holder has taken the slot from another owner, maybe while this node
        was away: (1) it crashes with a put; (2) another node owns the slot, deletes the key, uploads that and
        leaves as the last one; (3) this node starts, and gets its slots back. So the slot is not whole any more,
        unless it has become so since: that list is in each ring until a router knows that it has.
        """
        kept, uncollected = SlotEpochs(), SlotEpochs()
        if not self._map.copies_wanted:
            # A ring without copies: no other node has anything of these slots.
            for part in self._map.ranges:
                if _is_process(self._map, part.node, self.me, self.node_id):
                    kept.add(part.first, part.last, 1)
            self.whole.assign(kept)
            self.uncollected.assign(uncollected)
            return
        free, mine = 0, list[Range]()
        for first, last, node, owned_since in (*self._map.ranges, (SLOTS, SLOTS, None, 0)):
            # Slots without an owner may come back to this node as they were.
            parts = [(free, first - 1)] if free < first else []
            if node is not None and node.address == self.me:
                parts.append((first, last))
                mine.append((first, last))
            if node is not None and _is_process(self._map, node, self.me, self.node_id):
                uncollected.add(first, last, owned_since)
            for piece in parts:
                for run in self.whole.within(*piece):
                    kept.add(*run)
            free = last + 1
        listed = self._listed()
        for first, last in mine:
            for start, stop, how in kept.within(first, last):
                for begin, end, _ in listed.within(start, stop) if how == WHOLE else ():
                    kept.remove(begin, end)
                if how == COLLECTED and not listed.within(start, stop):
                    kept.add(start, stop, WHOLE)
        for first, last, _ in self._moves.taken:
            kept.add(first, last, COLLECTED)
        self.whole.assign(kept)
        for first, last, _ in kept:
            uncollected.remove(first, last)
        self.uncollected.assign(uncollected)

    def collected(self, first: int, last: int) -> bool:
        """Serve those of the slots `first` to `last` that are this node's: it has collected what others have."""
        for start, stop, _ in self.uncollected.within(first, last):
            self.whole.add(start, stop, WHOLE)
        for start, stop, _ in self._listed().within(first, last):
            for begin, end, _ in self.whole.within(start, stop):
                self.whole.add(begin, end, COLLECTED)
        self.uncollected.remove(first, last)
        return self._recompute()

    def _listed(self) -> SlotEpochs:
        """Return the slots of which the ring lists this node as a holder, with the number 1."""
        listed = SlotEpochs()
        for part in self._map.copies:
            if any(each.node.address == self.me for each in part.holders):
                listed.add(part.first, part.last, 1)
        return listed

    def hold_back(self, first: int, last: int) -> bool:
        """Serve those of the slots `first` to `last` that are this node's after `collected`; they stay whole."""
        for part in self._map.ranges:
            start, stop = max(first, part.first), min(last, part.last)
            if start <= stop and _is_process(self._map, part.node, self.me, self.node_id):
                self.uncollected.add(start, stop, part.owned_since)
        return self._recompute()

    @property
    def own_ranges(self) -> list[MapRange]:
        """Return the ranges that the ring has as this process's."""
        return [part for part in self._map.ranges if _is_process(self._map, part.node, self.me, self.node_id)]

    @property
    def own_slots(self) -> set[int]:
        """Return the slots that the ring has as this process's."""
        return {slot for first, last, _, _ in self.own_ranges for slot in range(first, last + 1)}

    @property
    def ownerless_slots(self) -> int:
        """Return how many slots have no owner, because all nodes that have their writes are lost."""
        if not self._map.copies_wanted or not self._map.nodes:
            return 0
        return SLOTS - sum(last + 1 - first for first, last, _, _ in self._map.ranges)

    def not_whole(self, slot: int) -> None:
        """Record that another node acknowledges writes of `slot`, although no ring that is known here says so."""
        self.whole.remove(slot, slot)

    def is_leaving(self, slot: int) -> bool:
        """True if this node has stopped `slot` to hand it over, or has handed it over."""
        return slot in self._moves.stopped or slot in self._moves.handed_over

    def has_handed_over(self, slot: int) -> bool:
        """True if this node has handed `slot` over, and the ring may not say so yet."""
        return slot in self._moves.handed_over

    def leaving(self, slots: Collection[int]) -> set[int]:
        """Return those of `slots` that this node has stopped to hand them over, or has handed over."""
        found: set[int] = set()
        for first, last, _ in (*self._moves.stopped, *self._moves.handed_over):
            if last - first < len(slots):
                found.update(slot for slot in range(first, last + 1) if slot in slots)
            else:
                found.update(slot for slot in slots if first <= slot <= last)
        return found

    def serves_any(self, slots: Collection[int]) -> bool:
        """True if this node serves one of `slots`, the fence disregarded."""
        unfenced = self._unfenced
        return any(unfenced[slot] != ELSEWHERE for slot in slots)

    def _recompute(self) -> bool:
        unfenced = served_since(self._map, self.me, self.node_id, self._moves)
        changed = unfenced != self._unfenced
        self._unfenced = unfenced
        self._apply()
        return changed

    def _apply(self) -> None:
        since = self._unfenced if self._closed is None else [ELSEWHERE] * SLOTS
        self.since[:] = since
        self.slots = SLOTS - since.count(ELSEWHERE)
        self.single = self.slots == SLOTS and since.count(since[0]) == SLOTS
        self.on_change()

    # ---- moves of slots

    def take_slots(self, ranges: Sequence[Range], since: int) -> bool:
        """Serve the slots of `ranges`, which their owner has handed over, since the epoch of the move.

        May be repeated. Raises FailedPrecondition if the newest ring does not move all of them to this process
        since that epoch; nothing is changed then.
        """
        mine = SlotEpochs()
        for part in (*self._map.pending, *self._map.ranges):
            if part.owned_since == since and _is_process(self._map, part.node, self.me, self.node_id):
                mine.add(part.first, part.last, since)
        for first, last in ranges:
            if mine.within(first, last) != [(first, last, since)]:
                raise FailedPrecondition(
                    f"the ring with epoch {self.epoch} does not move all slots from {first} to {last} to this "
                    f"node since epoch {since}"
                )
        for first, last in ranges:
            self._moves.taken.add(first, last, since)
            if self.collects:
                self.whole.add(first, last, COLLECTED)
                self.uncollected.remove(first, last)
        return self._recompute()

    def abandon(self, first: int, last: int, epoch: int) -> list[int]:
        """Promise to take none of the slots `first` to `last` by a move of `epoch`; return those taken already."""
        taken = [slot for slot in range(first, last + 1) if self._unfenced[slot] == epoch]
        self._abandoned.add(first, last, epoch)
        for slot in taken:
            self._abandoned.remove(slot, slot)
        return taken

    def has_abandoned(self, first: int, last: int, epoch: int) -> bool:
        """True if this node has promised not to take some slot of `first` to `last` by a move of `epoch`."""
        return any(abandoned == epoch for _, _, abandoned in self._abandoned.within(first, last))

    def stop_slots(self, ranges: Iterable[Range]) -> bool:
        """Stop serving the slots of `ranges`, of those that this node serves, to hand them over.

        It ends with `resume_slots`, with `hand_over`, and when a newer ring has another owner or another
        `owned_since`.
        """
        return self._leave(self._moves.stopped, ranges)

    def resume_slots(self, ranges: Iterable[Range]) -> bool:
        """Serve the stopped slots of `ranges` again; those that were handed over stay so."""
        for first, last in ranges:
            self._moves.stopped.remove(first, last)
        return self._recompute()

    def redirect_slots(self, ranges: Iterable[Range]) -> None:
        """Reply to requests for stopped slots that they have moved to their destination, until `end_redirect`.

        They were released to it, with no reply yet: it may serve them before this node gets to read the reply.
        """
        for first, last in ranges:
            self._redirected.add(first, last, 1)
        self.on_change()

    def end_redirect(self, ranges: Iterable[Range]) -> None:
        """End `redirect_slots`: the slots were handed over, or there is no reply."""
        for first, last in ranges:
            self._redirected.remove(first, last)

    def hand_over(self, ranges: Iterable[Range]) -> bool:
        """Leave the slots of `ranges`, of those that this node serves or has stopped, to their destinations.

        It ends when a newer ring has another owner or another `owned_since`. May be repeated.
        """
        return self._leave(self._moves.handed_over, ranges)

    def _leave(self, slots: SlotEpochs, ranges: Iterable[Range]) -> bool:
        granted = _granted(self._map, self.me, self.node_id, self._moves.taken)
        for first, last in ranges:
            for epoch, group in groupby(range(first, last + 1), granted.__getitem__):
                if epoch != ELSEWHERE:
                    adjacent = tuple(group)
                    slots.add(adjacent[0], adjacent[-1], epoch)
        return self._recompute()

    @property
    def taken(self) -> tuple[tuple[int, int, int], ...]:
        """Return the slots taken over that the ring has as pending still: first, last, and since which epoch."""
        found = SlotEpochs()
        for part in self._map.pending if self._moves.taken else ():
            if _is_process(self._map, part.node, self.me, self.node_id):
                for first, last, since in self._moves.taken.within(part.first, part.last):
                    if since == part.owned_since:
                        found.add(first, last, since)
        return tuple(found)

    # ---- the fence

    @property
    def is_member(self) -> bool:
        """True if this process is a member of the ring, and the ring's nodes fence."""
        return bool(self._map.released_epoch) and any(
            _is_process(self._map, node, self.me, self.node_id) for node in self._map.nodes
        )

    @property
    def may_be_elsewhere(self) -> bool:
        """True while this process has no ring, and another node may own every slot that the one before it had."""
        return self.was_fenced and not self.epoch

    @property
    def other_members(self) -> frozenset[str]:
        """Return the ids of the other processes of a ring whose nodes fence; none if this process is no member."""
        if not self.is_member:
            return frozenset()
        return frozenset(node.node_id or node.address for node in self._map.nodes if node.address != self.me)

    def unfenced_since(self, cache_key: bytes) -> int:
        """Return what `since` of the key's slot is while the fence is open."""
        return self._unfenced[slot_of(cache_key)]

    def unfenced_since_slot(self, slot: int) -> int:
        """Return what `since` of the slot is while the fence is open."""
        return self._unfenced[slot]

    def has_lost(self, key: bytes, owned_since: int) -> bool:
        """True if the key's slot is not this node's any more, as since the epoch `owned_since`.

        The fence is disregarded. False for a slot that it hands over, since that waits for writes in flight, and in
        rings whose nodes do not fence.
        """
        slot = slot_of(key)
        since = self._unfenced[slot]
        if since == owned_since or not self._map.released_epoch:
            return False
        return since > owned_since if since != ELSEWHERE else not self.is_leaving(slot)

    def close(self, reason: str, retry_after: float = 0.0) -> None:
        """Serve no slot, because of `reason`, until `open`. `retry_after`: seconds after which to try again."""
        self._closed = NoNodes(reason, retry_after)
        self._apply()

    def open(self) -> None:
        """Serve what the ring and the moves allow."""
        self._closed = None
        self._apply()

    @property
    def closed(self) -> str:
        """Return why the fence is closed; "" if it is open."""
        return "" if self._closed is None else str(self._closed)

    @property
    def slot_map(self) -> SlotMap:
        """Return the newest ring as it was received; empty while none is known."""
        return self._map

    def identity_at(self, resp_address: str) -> Identity:
        """Return the identity to expect at `resp_address`; its node id is "" if the ring has none there."""
        slot_map = self._map
        node_id = next((node.node_id for node in slot_map.nodes if node.resp_address == resp_address), "")
        return Identity(slot_map.cluster_id, slot_map.default_bucket, node_id)

    @property
    def nodes(self) -> tuple[RingNode, ...]:
        """Return all nodes of the ring."""
        if self._nodes is None:
            # Computed at the first use: it takes milliseconds, and after most changes of the ring is not needed.
            self._nodes = _ring_nodes(self._map)
        return self._nodes

    def waits_for_release(self, slot: int) -> bool:
        """True if `slot` is this process's in the newest ring, and not served yet: its last owner's lease may run.

        False while the fence is closed, and for what this node has stopped or handed over.
        """
        released = self._map.released_epoch
        target = self._map.target(slot)
        return (
            self.since[slot] == ELSEWHERE
            and self._closed is None
            and bool(released)
            and target.owned_since > released
            and target.address == self.me
            and slot not in self._moves.stopped
            and slot not in self._moves.handed_over
            and self.is_member
        )

    def mine_since(self, cache_key: bytes) -> int:
        """Return the epoch since which this node owns the key's slot; ELSEWHERE if it does not."""
        return self.since[0] if self.single else self.since[slot_of(cache_key)]

    def owned_since(self, cache_key: bytes) -> int:
        """Return the epoch since which this node owns the key's slot.

        Raises as `elsewhere` returns.
        """
        slot = slot_of(cache_key)
        since = self.since[slot]
        if since == ELSEWHERE:
            raise self.elsewhere(slot)
        return since

    def elsewhere(self, slot: int) -> Moved | NodeLost | NoNodes | TryAgain:
        """Return the error for a request about `slot`, which this node does not serve.

        Moved to its owner, or to the node that it was handed over to; NodeLost if that one has no RESP server;
        TryAgain if this node is to serve it soon, or hands it over; NoNodes if no ring is known, the slot has no
        owner, or its owner is this node and the fence is closed.
        """
        if slot in self.expected:
            return TryAgain(f"slot {slot}: its owner hands it over to this node; nothing was done", RETRY_SECONDS)
        if not self.epoch:
            return NoNodes("no ring is known: this node has not received one from a router yet (ROUTER_ADDR)")
        node = self._server_of(slot)
        if node is None:
            return self._ownerless(slot)
        if node.address == self.me:
            if self._closed is not None:
                return NoNodes(f"{self._closed}; nothing was done", self._closed.retry_after)
            return TryAgain(f"slot {slot}: {self._why_not(slot)}; nothing was done", RETRY_SECONDS)
        if not node.resp_address:
            return NodeLost(
                f"node {node.address}, which owns slot {slot}, cannot be reached over the Redis protocol: it does "
                "not speak it (RESP_ADDR)"
            )
        return Moved(slot, node.resp_address, node.resp_tls_address)

    def _ownerless(self, slot: int) -> NoNodes | TryAgain:
        lost = self._map.holders(slot)
        if not lost:
            return NoNodes(f"no node owns slot {slot}")
        return TryAgain(
            f"slot {slot}: all nodes that have its acknowledged writes are lost "
            f"({', '.join(holder.node.address for holder in lost)}); it is served when one of them returns with "
            "its journal, or without their writes after RECOVERY_WAIT_SECONDS; nothing was done",
            OWNERLESS_RETRY_SECONDS,
        )

    def _server_of(self, slot: int) -> Target | MapNode | None:
        """Return the node that serves `slot`, or is to: its owner, or to whom this node has handed it over."""
        if slot in self._moves.handed_over or (slot in self._redirected and slot in self._moves.stopped):
            for first, last, node, _ in self._map.pending:
                if first <= slot <= last:
                    return node
        owner = self._map.target(slot)
        return owner if owner.address else None

    def _why_not(self, slot: int) -> str:
        if slot in self._moves.stopped or slot in self._moves.handed_over:
            return "this node hands it over to another one"
        if self._map.target(slot).owned_since > self._map.released_epoch:
            return "its lost owner may still have a lease"
        if slot in self.uncollected:
            return "this node collects the writes of its lost owner from the nodes that have copies"
        return "this node has restarted, and the ring still has the process before it"

    def tls_address_at(self, resp_address: str) -> str:
        """Return the encrypted address of the node whose RESP server is at `resp_address`, "" if it has none."""
        return next((node.resp_tls_address for node in self._map.nodes if node.resp_address == resp_address), "")

    def resp_address_of(self, slot: int) -> str:
        """Return host:port of the RESP server of the node that serves the slot; "" if it has none, or none does."""
        node = self._server_of(slot)
        return node.resp_address if node is not None else ""


def _ring_nodes(slot_map: SlotMap) -> tuple[RingNode, ...]:
    ranges: dict[str, list[tuple[int, int]]] = {node.address: [] for node in slot_map.nodes}
    for first, last, owner, _ in slot_map.ranges:
        merged = ranges[owner.address]
        if merged and merged[-1][1] == first - 1:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return tuple(
        RingNode(
            node.address,
            node.resp_address,
            node.resp_tls_address,
            sha1(node.address.encode(), usedforsecurity=False).hexdigest(),
            tuple(ranges[node.address]),
        )
        for node in slot_map.nodes
    )
