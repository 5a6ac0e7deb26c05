"""Coordination. Reads all records of the journal at the start, sound and damaged ones.

A damaged record does not stop the start: if its key is known, reads of the key fail; if not, it is quarantined.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from milena_cache.journal.disk import Disk
from milena_cache.journal.record import Damaged, Record, decode

log = logging.getLogger(__name__)

STEP = 5_000


class Replayed(NamedTuple):
    """A record that was read at the start.

    record, size: its fields, without the value; the bytes of its value.
    rejection: reason and time (seconds since 1970) if S3 rejected the write permanently, else None.
    damage: the kind of damage if its value is damaged and must not be served, else "".
    """

    record: Record
    size: int
    rejection: tuple[str, float] | None
    damage: str


class RecoveredCopies(Protocol):
    """Takes the records that are copies of other nodes' writes (`milena_cache.copies`)."""

    def recover(self, record: Record, size: int, damage: str) -> bool:
        """Take a record, the bytes of its value and its damage; return False if it is this node's own write."""

    def recovered(self) -> None:
        """Called when all records were read."""


def read_records(disk: Disk, damaged: list[int]) -> Iterator[list[Replayed]]:
    """Yield the records in the order of the writes, at most STEP at a time, so that the caller can yield.

    The numbers of damaged records whose key is unknown are appended to `damaged`.
    """
    rejections = disk.rejections()
    last = -1
    while found := disk.records(last, STEP):
        last = found[-1][0]
        step: list[Replayed] = []
        for seq, raw in found:
            try:
                record, size = decode(seq, raw, with_value=False)
                damage = ""
            except Damaged as error:
                log.error("journal record %d: %s", seq, error)
                if error.record is None:
                    damaged.append(seq)
                    continue
                record, size, damage = error.record, 0, str(error)
            step.append(Replayed(record, size, rejections.get(seq), damage))
        yield step


async def replayed(
    disk: Disk, seen: Callable[[Sequence[Replayed]], None], finish: Callable[[Sequence[int]], Awaitable[None]]
) -> AsyncIterator[list[Replayed]]:
    """Yield what `read_records` yields, each step after `seen` was called with it.

    Between the steps the event loop runs other work. At the end `finish` gets the numbers of damaged records whose
    key is unknown. Not in `group_commit`, which is compiled: mypyc knows no async generators.
    """
    damaged: list[int] = []
    for step in read_records(disk, damaged):
        seen(step)
        yield step
        await asyncio.sleep(0)
    await finish(damaged)
