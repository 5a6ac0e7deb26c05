"""Coordination. Reading the journal's records at the start, whatever state they are in."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from milena_cache.journal.disk import Disk
from milena_cache.journal.record import Damaged, Record, decode

log = logging.getLogger(__name__)

STEP = 5_000


class Replayed(NamedTuple):
    """A record found at the start. `rejection`: reason and time (seconds since 1970) if S3 refused it for good.

    `damage` says what is wrong if its value is not what was written; it must then not be served.
    """

    record: Record
    size: int
    rejection: tuple[str, float] | None
    damage: str


def read_records(disk: Disk, damaged: list[int]) -> Iterator[Replayed | None]:
    """Every record, in the order of the writes, and None now and then for others to have their turn.

    Numbers of those that are damaged beyond recognition go into `damaged`.
    """
    rejections = disk.rejections()
    last = -1
    while found := disk.records(last, STEP):
        for seq, raw in found:
            last = seq
            try:
                record, size = decode(seq, raw, with_value=False)
                damage = ""
            except Damaged as error:
                log.error("journal record %d: %s", seq, error)
                if error.record is None:
                    damaged.append(seq)
                    continue
                record, size, damage = error.record, 0, str(error)
            yield Replayed(record, size, rejections.get(seq), damage)
        yield None
