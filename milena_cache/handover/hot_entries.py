"""Coordination. Hot clean entries follow the slots that were handed over, so that the hit ratio stays.

The old owner sends them, most recently used first, at most HANDOVER_BYTES_PER_SECOND, and only while its event loop
is idle enough: requests come first. The new owner keeps what it has room for without evicting anything, unless it
has the key itself, or has written it since it took the slot (see `old_owner`, which requests what is not here yet).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from milena_cache.handover.frames import MAX_BYTES, MAX_WRITES
from milena_cache.handover.old_owner import OldOwner
from milena_cache.handover.plan import Move
from milena_cache.handover.source import CALL_SECONDS, STEP, Links
from milena_common.api.errors import MilenaError
from milena_common.cluster.slots import slot_of
from milena_common.resp.encoding import command
from milena_common.runtime.clock import Clock

# The share of a core that the event loop may have used since the last frame for the next one to be sent at once.
IDLE_SHARE = 0.7
PAUSE_SECONDS = 0.05
# Fields of an entry in the command: key, value, ETag, age in milliseconds, expiry.
FIELDS = 5


class HotEntries:
    """Sends the clean entries of slots that one node has handed over. `bytes_per_second`: 0 sends none.

    keys: returns the keys with a clean entry, the most recently used first
    sent: number of entries that new owners got
    """

    def __init__(
        self,
        old_owner: OldOwner,
        keys: Callable[[], Iterator[bytes]],
        links: Links,
        clock: Clock,
        bytes_per_second: float,
    ) -> None:
        self.sent = 0
        self._old_owner = old_owner
        self._keys = keys
        self._links = links
        self._clock = clock
        self._rate = bytes_per_second
        self._slots: dict[Move, set[int]] = {}
        self._task: asyncio.Task[None] | None = None

    def handed_over(self, move: Move, slots: set[int]) -> None:
        """Send the entries of `slots`, which the destination of `move` serves now."""
        if not self._rate:
            return
        self._slots.setdefault(move, set()).update(slots)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def cancel_moves(self) -> None:
        """Cancel everything, at the end of the process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._slots:
                move = next(iter(self._slots))
                # Slots that are handed over meanwhile are sent with the next pass.
                await self._send(move, self._slots.pop(move))
        finally:
            self._task = None

    async def _send(self, move: Move, slots: set[int]) -> None:
        frame: list[bytes] = []
        size = 0
        for number, key in enumerate(list(self._keys())):
            if not (number + 1) % STEP:
                await asyncio.sleep(0)
            if slot_of(key) not in slots:
                continue
            found = self._old_owner.peek(move.epoch, key)
            if found is None:
                continue
            value, etag, age_ms, expires_at = found
            if len(value) > MAX_BYTES:
                continue  # it is read from here when it is needed
            if frame and (size + len(value) > MAX_BYTES or len(frame) >= MAX_WRITES * FIELDS):
                if not await self._deliver(move, frame, size):
                    return
                frame, size = [], 0
            frame += (key, value, etag, b"%d" % age_ms, expires_at)
            size += len(key) + len(value)
        if frame:
            await self._deliver(move, frame, size)

    async def _deliver(self, move: Move, frame: list[bytes], size: int) -> bool:
        began, used = self._clock.now(), self._clock.cpu()
        sent = command(b"MILENA.HANDOVER", b"HOT", b"%d" % move.epoch, *frame)
        try:
            await self._links.request(move.resp_address, sent, CALL_SECONDS)
        except MilenaError:
            return False  # the new owner reads them from S3
        self.sent += len(frame) // FIELDS
        await self._clock.sleep(max(0.0, size / self._rate - (self._clock.now() - began)))
        while True:
            passed = self._clock.now() - began
            if self._clock.cpu() - used <= IDLE_SHARE * passed or not passed:
                return True
            began, used = self._clock.now(), self._clock.cpu()
            await self._clock.sleep(PAUSE_SECONDS)
