"""Coordination. The way from an owner to one holder of its slots: sessions, frames, and what is confirmed.

`frames` has the format and the rules. This module keeps, for one holder, what it is to get and what it has:

    a commit's records ─▶ waiting ─▶ frame in flight ─▶ confirmed: one reason less for which the writes wait
    a release          ─▶ owed, rides along with the next frame, or leaves by itself ─▶ confirmed
    slots listed       ─▶ BEGIN, all dirty writes in pieces, END ─▶ synced: the holder has everything

Order in a frame: BEGIN, records of commits, other records, END, releases. A BEGIN is sent no later than any record
of its slots that is appended after it, and what was sent before and is not durable everywhere is sent again behind
it: otherwise (1) a write is sent, (2) its slot is begun, (3) the dirty writes are listed, and this one is none yet,
(4) END drops it at the holder, and (5) it is acknowledged.

When a frame fails, nothing is known of it and of those behind it. A new session begins all slots anew. What the
holder had confirmed before counts: it is not lost by a connection that breaks.

A holder *fails* when what a write waits for is not confirmed in time. That is reported, and ends when a ring does
not have it any more, or when it has confirmed everything after all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from functools import partial
from typing import Any, Protocol

from milena_cache.copies.frames import (
    MAX_FRAME_BYTES,
    Begin,
    End,
    Release,
    Reply,
    Sender,
    decode_reply,
    encode_command,
    encode_frame,
    encode_release,
    encode_slots,
)
from milena_cache.handover.frames import ranges_of, seconds_for
from milena_cache.journal.record import Damaged
from milena_common.api.errors import MilenaError, TryAgain, Unavailable
from milena_common.cluster.slot_map import MapNode
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.05, max_delay=1.0)
# Timeout of one frame, besides what its size needs.
CALL_SECONDS = 3.0
# A release that no frame takes along leaves by itself after so many seconds.
RELEASE_SECONDS = 0.04
# Frames in flight; further commits wait, and share one.
MAX_FRAMES = 8
# Releases that are not confirmed; beyond it a new session, whose END has the same effect, takes their place.
MAX_OWED = 100_000
# A holder that cannot be reached fails after so many seconds, also if no write waits for it.
UNREACHED_SECONDS = 3.0
# Slots that are compared at once.
CHUNK = 256
# Keys of a round between two yields to the event loop.
STEP = 2000

# What a slot is listed under: since which epoch this node owns it, and since which the holder is filling; 0 if it
# is complete.
Key = tuple[int, int]
# A release that is not confirmed: the key, and whether it has a tombstone.
Owed = tuple[bytes, bool]
# First and last slot, both included.
ListedRun = tuple[int, int, Key]


class Group:
    """Writes of one commit that have the same holders, and what they wait for.

    writes: of the journal, in its order
    waiting: the links whose confirmation is to come; None among them: the commit of this node's journal
    links: those that the records were given to
    parts, size: the records as items, and their bytes
    began: when the commit began, in monotonic seconds
    failed: why the writes cannot be acknowledged, "" while they may be
    done: True once the writes are completed
    successors: the groups that have taken its place after a change of the ring
    """

    __slots__ = ("began", "done", "failed", "links", "parts", "size", "successors", "waiting", "writes")

    def __init__(self, links: Sequence[HolderLink], began: float) -> None:
        self.writes: list[Any] = []
        self.waiting: set[HolderLink | None] = {None, *links}
        self.links = tuple(links)
        self.parts: list[bytes] = []
        self.size = 0
        self.began = began
        self.failed = ""
        self.done = False
        self.successors: list[Group] = []


class Host(Protocol):
    """What a link needs of the node."""

    def sender(self, session: int, serial: int) -> Sender:
        """Return the sender of a frame."""

    def next_session(self) -> int:
        """Return a number that no session had."""

    def keys_of(self, slots: set[int]) -> Iterable[bytes]:
        """Return the keys of which a holder of `slots` is to have something, as they are now."""

    def item_of(self, key: bytes) -> bytes | None:
        """Return what a holder is to have of `key`, as an item; None for nothing. Raises Damaged."""

    async def item_elsewhere(self, key: bytes, link: HolderLink) -> bytes | None:
        """Return the same where the record of `key` is damaged here; `link`: the holder.

        None for nothing. Raises MilenaError if another holder, which may have it, does not reply.
        """

    def leaving(self, slots: Collection[int]) -> set[int]:
        """Return those of `slots` that this node hands over, or has handed over."""

    def pending_items(self, slots: set[int]) -> list[bytes]:
        """Return the writes of `slots` that are not durable everywhere, as items."""

    def confirmed(self, link: HolderLink, group: Group) -> None:
        """The holder has the writes of `group`."""

    def rejected(self, link: HolderLink, group: Group, why: str) -> None:
        """The holder has none of the writes of `group`, and will not have them."""

    def changed(self) -> None:
        """What is to be reported of the link has changed."""


class Links(Protocol):
    """Connections to other nodes."""

    async def request(self, address: str, sent: bytes, timeout: float) -> Any:
        """Return the reply of the node whose RESP server is at `address`. Raises MilenaError."""

    def begin(self, address: str, sent: bytes, timeout: float) -> asyncio.Future[Any]:
        """Send a command, at once if there is a connection.

        The future's result is the reply, or an exception to raise; or it raises one: MilenaError.
        """


class _Frame:
    """A frame in flight: its groups and releases, whether it has other records, and the slots of its END.

    reply: None until it has come
    """

    __slots__ = ("finished", "groups", "records", "releases", "reply")

    def __init__(self, groups: list[Group], releases: dict[Owed, Release], *, records: bool) -> None:
        self.groups = groups
        self.releases = releases
        self.records = records
        self.finished: dict[int, int] = {}
        self.reply: Reply | None = None


class HolderLink:
    """One holder.

    node: as the newest ring has it
    runs: the slots of which the ring lists it; listed: by slot what it is listed under, None if it is not listed
    synced: by slot 1 if it was sent everything, and has confirmed it
    failing: why it does not follow, "" if it does
    sent: number of records that it has confirmed
    """

    def __init__(
        self, node: MapNode, host: Host, links: Links, clock: Clock, rng: Callable[[], float], timeout: float
    ) -> None:
        self.node = node
        self.runs: Sequence[ListedRun] = ()
        self.listed: list[Key | None] = [None] * SLOTS
        self.synced = bytearray(SLOTS)
        self.failing = ""
        self._host = host
        self._links = links
        self._clock = clock
        self._rng = rng
        self._timeout = timeout
        self._unready: Set[int] = frozenset()
        self._kept: set[int] = set()
        # Listed slots that were not begun in this session, and by slot the number of its BEGIN, 0 for none.
        self._new: set[int] = set()
        self._begun = [0] * SLOTS
        self._round = 0
        self._begins: list[bytes] = []
        self._to_fill: set[int] = set()
        self._waiting: deque[Group] = deque()
        self._extras: deque[bytes] = deque()
        # The slots of the END that follows the extras.
        self._end: dict[int, int] = {}
        self._in_flight: deque[_Frame] = deque()
        self._owed: dict[Owed, Release] = {}
        self._unsent: dict[Owed, None] = {}
        self._forgotten = False  # releases were dropped, and no session has ended all slots since
        self._waiters: dict[bytes, list[asyncio.Future[None]]] = {}
        self._urgent = False
        self._session = self._serial = 0
        self._open = False
        self._error: MilenaError | None = None
        self._event = asyncio.Event()
        self._unreached_since: float | None = clock.now()
        self._release_timer: asyncio.Task[None] | None = None
        self._replies: set[asyncio.Future[Any]] = set()
        self._task: asyncio.Task[None] | None = None
        self._log = LogLimiter()

    # ---- the ring

    def update(self, node: MapNode, runs: Sequence[ListedRun], unready: Set[int], kept: Set[int]) -> None:
        """Take over what the newest ring says of this holder.

        runs: of the slots of which it is listed, in ascending order
        unready: slots of which not all that this node has is dirty, so that they cannot be begun yet
        kept: slots that were handed over to this node, of which the holder has everything without being sent it
        """
        if node.node_id != self.node.node_id or node.resp_address != self.node.resp_address:
            self._fail_session(Unavailable("another process is at the holder's address"))
        self.node = node
        self._unready = unready
        before = listed = self.listed
        if runs != self.runs:
            listed = [None] * SLOTS
            for first, last, key in runs:
                listed[first : last + 1] = [key] * (last + 1 - first)
            self.runs, self.listed = runs, listed
        if listed is not before:
            gone = False
            for slot in _differences(before, listed):
                old, new = before[slot], listed[slot]
                # A filling holder that is complete now is the same; one that was listed again is not.
                if old is None or not _same(old, new):
                    self.synced[slot] = self._begun[slot] = 0
                    self._to_fill.discard(slot)
                    if new is None:
                        self._new.discard(slot)
                        gone = True
                    else:
                        self._new.add(slot)
            if gone and (self._owed or self._waiters):
                for owed in [each for each in self._owed if not self.lists(slot_of(each[0]))]:
                    del self._owed[owed]
                    self._unsent.pop(owed, None)
                for name in [each for each in self._waiters if not self.lists(slot_of(each))]:
                    self._wake(name)
        self._kept = (
            {slot for slot in kept if listed[slot] is not None and not self.synced[slot]} if kept else set()
        )
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif self._open:
            self._begin_slots(again=True)
            self._flush()

    def lists(self, slot: int) -> bool:
        """Return True if the ring lists this holder for `slot`."""
        return self.listed[slot] is not None

    def is_complete(self, slot: int) -> bool:
        """Return True if the ring lists this holder as a complete one of `slot`."""
        key = self.listed[slot]
        return key is not None and not key[1]

    def _begin_slots(self, *, again: bool) -> None:
        """Queue the BEGIN of the listed slots that have none; `again`: repeat what was sent of them before it.

        Not of slots that are being handed over: their new owner counts on what the holder has, and here it becomes
        copies, which are not sent. They are begun if they are served here again; see `look_at_time`.
        """
        new = self._new - self._unready
        new -= self._host.leaving(new)
        if not new:
            return
        self._new -= new
        kept = new & self._kept
        full = new - kept
        self._round += 1
        by_move: dict[int, list[int]] = {}
        for slot in kept:
            if (key := self.listed[slot]) is not None:
                by_move.setdefault(key[0], []).append(slot)
                self.synced[slot] = 1
        for since, slots in by_move.items():
            self._begins.append(encode_slots(Begin(tuple(ranges_of(slots)), since)))
        self._kept -= kept
        if full:
            self._begins.append(encode_slots(Begin(tuple(ranges_of(full)))))
            self._to_fill |= full
            if again:
                self._extras.extend(self._host.pending_items(full))
        for slot in new:
            self._begun[slot] = self._round
        self._event.set()
        self._host.changed()

    # ---- what is to be sent

    def send_group(self, group: Group) -> None:
        """Send the records of `group`, and confirm it when the holder has them."""
        self._waiting.append(group)
        if self._open:
            self._flush()

    def send_item(self, item: bytes) -> None:
        """Send a record besides those of commits."""
        if self._open:  # else the session that comes sends everything
            self._extras.append(item)
            self._flush()

    def release(self, release: Release) -> None:
        """Have the holder give up the copies of a key, with the next frame or soon."""
        # A tombstone has the version of its delete, and a release without one may be of a later write.
        key = release.key, release.deleted_at is not None
        known = self._owed.get(key)
        if known is not None and known.version >= release.version:
            return
        if len(self._owed) >= MAX_OWED:
            self._start_over()
            return
        self._owed[key] = release
        self._unsent[key] = None
        if self._open and self._release_timer is None:
            self._release_timer = asyncio.get_running_loop().create_task(self._release_soon())

    def _start_over(self) -> None:
        self._owed.clear()
        self._unsent.clear()
        self._forgotten = True
        self._fail_session(Unavailable("too many releases wait for the holder: a new session drops what is over"))

    async def _release_soon(self) -> None:
        await self._clock.sleep(RELEASE_SECONDS)
        self._release_timer = None
        if self._open and self._unsent:
            self._flush(releases=True)

    async def has_released(self, key: bytes) -> bool:
        """Return True once the holder has confirmed all releases of `key`, or is not listed."""
        while self.lists(slot_of(key)):
            if (key, False) not in self._owed and (key, True) not in self._owed and not self._forgotten:
                return True
            if ((key, False) in self._unsent or (key, True) in self._unsent) and self._open:
                self._urgent = True
                self._flush(releases=True)
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.setdefault(key, []).append(waiter)
            await waiter
        return True

    def _wake(self, key: bytes) -> None:
        for waiter in self._waiters.pop(key, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _wake_all(self) -> None:
        for key in list(self._waiters):
            self._wake(key)

    # ---- frames

    def _flush(self, *, releases: bool = False) -> None:
        """Send what waits, in as many frames as it needs; `releases`: also if there are only releases."""
        while self._open and len(self._in_flight) < MAX_FRAMES:
            if not (self._begins or self._waiting or self._extras or self._end or (releases and self._unsent)):
                break
            self._send_frame()
        if self._open and self._unsent and self._release_timer is None:
            self._release_timer = asyncio.get_running_loop().create_task(self._release_soon())

    def _send_frame(self) -> None:
        items, self._begins = self._begins, []
        size = sum(map(len, items))
        groups: list[Group] = []
        while self._waiting and (not groups or size + self._waiting[0].size <= MAX_FRAME_BYTES):
            group = self._waiting.popleft()
            if group.done:
                continue
            groups.append(group)
            items += group.parts
            size += group.size
        records = False
        while self._extras and (not items or size + len(self._extras[0]) <= MAX_FRAME_BYTES):
            item = self._extras.popleft()
            records = True
            items.append(item)
            size += len(item)
        finished: dict[int, int] = {}
        if self._end and not self._extras:
            finished, self._end = self._end, finished
            # While they waited: what is handed over becomes a copy, so that not everything of a slot was sent.
            for slot in self._host.leaving(finished):
                del finished[slot]
                self._new.add(slot)
            if finished:
                items.append(encode_slots(End(tuple(ranges_of(finished)))))
        taken: dict[Owed, Release] = {}
        for key in list(self._unsent):
            if size >= MAX_FRAME_BYTES:
                break
            release = taken[key] = self._owed[key]
            del self._unsent[key]
            item = encode_release(release)
            items.append(item)
            size += len(item)
        self._serial += 1
        sender = self._host.sender(self._session, self._serial)
        sent = encode_command(sender, encode_frame(items, urgent=self._urgent))
        self._urgent = False
        frame = _Frame(groups, taken, records=records)
        frame.finished = finished
        self._in_flight.append(frame)
        timeout = max(CALL_SECONDS, self._timeout) + seconds_for(len(sent))
        # Not in a task of its own: a lone write would wait for an iteration of the event loop more.
        replying = self._links.begin(self.node.resp_address, sent, timeout)
        self._replies.add(replying)
        replying.add_done_callback(partial(self._has_reply, frame, self._session))

    def _has_reply(self, frame: _Frame, session: int, replying: asyncio.Future[Any]) -> None:
        """Handle the reply to a frame; those of an earlier session are not regarded."""
        self._replies.discard(replying)
        if replying.cancelled():
            return
        error: MilenaError | None = None
        reply = Reply.TAKEN
        try:
            found = replying.result()
            if isinstance(found, MilenaError):
                error = found
            else:
                reply = decode_reply(found)
        except MilenaError as failure:
            error = failure
        if session != self._session or self._error is not None:
            return
        if error is None and reply is Reply.STALE:
            error = TryAgain("the holder has a newer ring, by which this node does not own the slots", 0.05)
        elif error is None and reply is Reply.UNKNOWN_SESSION:
            error = Unavailable("the holder does not know the session")
        if error is not None:
            self._fail_session(error)
            return
        # Replies may come in another order: one waits for a sync, and the next for none. They are handled in that
        # of the frames, so that the writes of a key are confirmed in their order.
        frame.reply = reply
        while self._error is None and self._in_flight and self._in_flight[0].reply is not None:
            frame = self._in_flight.popleft()
            self._replied(frame, frame.reply or Reply.TAKEN)
        self._flush(releases=self._urgent)
        self._event.set()

    def _replied(self, frame: _Frame, reply: Reply) -> None:
        for key, release in frame.releases.items():
            if self._owed.get(key) is release:
                del self._owed[key]
                self._wake(key[0])
        for group in frame.groups:
            if reply is Reply.FULL:
                self._host.rejected(self, group, "a holder has no room for it (DIRTY_COPY_BYTES)")
            else:
                self._host.confirmed(self, group)
        if reply is Reply.FULL and frame.records:
            # What is missing there is nothing that a write waits for: without it the holder is not complete.
            self._fail("it has no room for the copies (DIRTY_COPY_BYTES)")
            self._fail_session(Unavailable("the holder is full"))
            return
        for slot, number in frame.finished.items():
            if self._begun[slot] == number:
                self.synced[slot] = 1
        if frame.finished:
            if self._forgotten and not self._new and not self._to_fill:
                self._forgotten = False
                self._wake_all()
            self._host.changed()

    # ---- sessions

    def _fail_session(self, error: MilenaError) -> None:
        if self._error is None:
            self._error = error
        self._open = False
        self._event.set()

    async def _run(self) -> None:
        failures = 0
        while True:
            opened = False
            try:
                self._start_session()
                await self._next(lambda: not self._in_flight)
                opened = self._open = True
                self._unreached_since = None
                self._begin_slots(again=True)
                self._flush(releases=True)
                await self._serve_session()
            except MilenaError as error:
                if self._log.allow(self._clock.now()):
                    text = "copies: session with node %s ended: %s%s"
                    log.warning(text, self.node.address, error, self._log.suppressed())
            except Exception:  # a defect in Milena: without this link no write would be acknowledged
                log.exception("copies: the session with node %s failed, and begins again", self.node.address)
            self._open = False
            if self._unreached_since is None:
                self._unreached_since = self._clock.now()
            failures = 1 if opened and not self.failing else failures + 1
            self._event.clear()
            await self._clock.sleep(BACKOFF.delay(failures, self._rng))

    def _start_session(self) -> None:
        """Send the first frame: everything that was in flight comes again, behind the BEGIN of all slots."""
        self._error = None
        self._session, self._serial = self._host.next_session(), 0
        groups = dict.fromkeys(group for frame in self._in_flight for group in frame.groups)
        self._waiting.extendleft(reversed([group for group in groups if not group.done]))
        self._in_flight.clear()
        self._extras.clear()
        self._end.clear()
        self._begins.clear()
        self._begun = [0] * SLOTS
        self._new = {slot for first, last, _ in self.runs for slot in range(first, last + 1)}
        self._to_fill.clear()
        self._unsent = dict.fromkeys(self._owed)
        self._begin_slots(again=False)
        self._send_frame()

    async def _next(self, reached: Callable[[], bool]) -> None:
        """Return when `reached` returns True. Raises what has ended the session."""
        while True:
            if self._error is not None:
                raise self._error
            if reached():
                return
            self._event.clear()
            await self._event.wait()

    async def _serve_session(self) -> None:
        while True:
            await self._next(lambda: bool(self._to_fill) or (bool(self.failing) and self._is_idle))
            if self._to_fill:
                await self._fill()
            elif self.failing:
                self.failing = ""
                self._host.changed()

    @property
    def _is_idle(self) -> bool:
        return not (self._waiting or self._in_flight or self._extras or self._begins or self._end)

    async def _fill(self) -> None:
        """Send everything that this node has of the slots that were begun, and then END."""
        round_of = {slot: self._begun[slot] for slot in self._to_fill}
        self._to_fill.clear()
        size = 0
        skipped: set[int] = set()
        for seen, key in enumerate(self._host.keys_of(set(round_of)), 1):
            slot = slot_of(key)
            if self._begun[slot] == round_of[slot]:
                try:
                    item = self._host.item_of(key)
                except Damaged:
                    try:
                        item = await self._host.item_elsewhere(key, self)
                    except MilenaError:
                        # A sound copy may be where it cannot be read now. The holder is not complete without it.
                        skipped.add(slot)
                        continue
                    if self._error is not None:
                        raise self._error from None
                if item is not None:
                    self._extras.append(item)
                    size += len(item)
            if size >= MAX_FRAME_BYTES // 4:
                size = 0
                self._flush()
                await self._next(lambda: not self._extras and len(self._in_flight) < MAX_FRAMES // 2)
            elif not seen % STEP:
                await asyncio.sleep(0)
        self._flush()
        await self._next(lambda: not self._extras and len(self._in_flight) < MAX_FRAMES)
        self._new |= {slot for slot in skipped if self.lists(slot)}
        self._end = {
            slot: number
            for slot, number in round_of.items()
            if slot not in skipped and self._begun[slot] == number and slot not in self._to_fill
        }
        self._flush()
        # One round at a time.
        await self._next(lambda: not self._end and not any(frame.finished for frame in self._in_flight))

    # ---- failing

    def _fail(self, why: str) -> None:
        if not self.failing:
            self.failing = why
            log.warning("copies: node %s does not follow as a holder: %s", self.node.address, why)
            self._wake_all()
            self._host.changed()

    def look_at_time(self, now: float, oldest: float | None) -> None:
        """Fail if the oldest write that waits for this holder, since `oldest`, has waited for too long.

        Begins slots, too, that could not be begun before: a move was given up, or a holder could not be asked.
        """
        if self._new and self._open and not self._to_fill:
            self._begin_slots(again=True)
            self._flush()
        if oldest is not None and now - oldest >= self._timeout:
            self._fail(f"a write has waited for it for {self._timeout:g} s (COPY_TIMEOUT_MS)")
        elif self._unreached_since is not None and now - self._unreached_since >= max(
            self._timeout, UNREACHED_SECONDS
        ):
            self._fail("it cannot be reached")

    def is_synced(self, slot: int) -> bool:
        """Return True if the holder has everything that this node has of `slot`."""
        return bool(self.synced[slot])

    def close(self) -> None:
        """End the link: the ring does not list the holder any more."""
        self.runs, self.listed = (), [None] * SLOTS
        self._open = False
        self._session = -1
        self._owed.clear()
        self._unsent.clear()
        self._wake_all()
        for task in (self._task, self._release_timer, *self._replies):
            if task is not None:
                task.cancel()


def _same(key: Key, listed: Key | None) -> bool:
    """Return True if the holder of `key` is the one that is `listed`: as it was, or complete by now."""
    return listed is not None and key[0] == listed[0] and (key[1] == listed[1] or not listed[1])


def _differences(before: Sequence[Key | None], after: Sequence[Key | None]) -> Iterator[int]:
    """Yield the slots that are not listed as before."""
    for first in range(0, SLOTS, CHUNK):
        if before[first : first + CHUNK] != after[first : first + CHUNK]:
            yield from (slot for slot in range(first, first + CHUNK) if before[slot] != after[slot])
