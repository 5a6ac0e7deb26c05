"""Pure. Allocates the version of each write of this node: greater than all before it, also across restarts.

The journal does not keep the numbers of writes that went straight to S3, so a restart could allocate them again. So
its metadata reserves numbers a block ahead, and a restart begins at the end of the reserved block, or at the time
of
day in microseconds if that is greater: it is, if the journal was lost and this is a new one. The epoch begins at
the time of day in milliseconds, as the routers' epochs do; the node reports the newest epoch that it has seen to
its routers, whose next epochs are greater.
"""

from __future__ import annotations

from collections.abc import Mapping

from milena_cache.objects.version import Version

BLOCK = 2**20
# About the year 4200, in milliseconds and in microseconds since 1970.
MAX_LEARNED_EPOCH = 2**46
MAX_LEARNED_SEQ = 2**56


class Versions:
    """Allocates versions.

    wall: the time of day, in seconds since 1970.
    metadata: the result of `metadata()` that was stored before the restart; empty for a new journal.
    """

    def __init__(self, wall: float, metadata: Mapping[str, str]) -> None:
        self.epoch = max(int(wall * 1000), int(metadata.get("epoch", 0)))
        self.seq = max(int(wall * 1_000_000), int(metadata.get("reserved", 0)))
        self._reserve_from = self.seq
        # What a restart begins at: as `metadata` returned it last, and as it is known to be on disk.
        self._offered = self._stored = (int(metadata.get("epoch", 0)), int(metadata.get("reserved", 0)))

    def next(self, owned_since: int) -> Version:
        """Return the version of a write under an ownership that began at epoch `owned_since`."""
        if owned_since > self.epoch:
            self.epoch = owned_since
            self._reserve_from = 0  # a restart must not begin below it
        self.seq += 1
        return Version(self.epoch, self.seq)

    def next_many(self, owned_since: int, number: int) -> Version:
        """Return the version of the first of `number` writes that begin now; the others have the `seq` after it."""
        first = self.next(owned_since)
        self.seq += number - 1
        return first

    def seen(self, version: Version) -> None:
        """Make later versions greater than `version`, which has been used."""
        epoch, seq = version
        if epoch > self.epoch:
            self.epoch = epoch
        if seq > self.seq:
            self.seq = seq

    def learn(self, version: Version) -> None:
        """Make later versions greater than `version`, which S3 holds.

        A version that no clock gives before about the year 4200 is ignored: an object with forged metadata must not
        exhaust the journal's numbers.
        """
        if version.epoch > MAX_LEARNED_EPOCH or version.seq > MAX_LEARNED_SEQ:
            return
        if version.epoch > self.epoch:
            self._reserve_from = 0  # a restart must not begin below it
        self.seen(version)

    @property
    def due(self) -> bool:
        """Return True if `metadata` should be stored now."""
        return self.seq >= self._reserve_from

    def metadata(self) -> dict[str, str]:
        """Return the metadata that must be on disk before half a block of further versions is allocated."""
        self._reserve_from = self.seq + BLOCK // 2
        self._offered = (self.epoch, self.seq + BLOCK)
        return {"epoch": str(self.epoch), "reserved": str(self.seq + BLOCK)}

    def stored(self) -> None:
        """Record that what `metadata` returned last is on disk."""
        self._stored = self._offered

    def rolled_back(self) -> None:
        """Record that what `metadata` returned last is not on disk: it will be called again."""
        self._offered = self._stored

    def is_covered(self, version: Version) -> bool:
        """Return True if versions will be greater than `version` after a restart too, by what is on disk."""
        epoch, seq = self._stored
        return version.epoch <= epoch and version.seq <= seq
