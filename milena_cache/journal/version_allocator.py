"""Pure. Gives each write of this node its version, greater than all before, also than those before a restart.

Numbers of writes that the journal does not keep (those that went straight to S3) would be given again after a
restart. So the journal notes a number up to which they may have been given, a block ahead, and a restart begins
there, or at the time of day in microseconds if that is more: it is, if the journal was lost and this is a new one.
The epoch begins at the time of day in milliseconds, as the routers' epochs do; what this node then tells its
routers as the newest that it has seen makes theirs greater.
"""

from __future__ import annotations

from collections.abc import Mapping

from milena_cache.objects.version import Version

BLOCK = 2**20
# About the year 4200, in milliseconds and in microseconds since 1970.
MAX_LEARNED_EPOCH = 2**46
MAX_LEARNED_SEQ = 2**56


class Versions:
    """`wall`: the time of day in seconds; `metadata`: what `metadata()` gave before the restart."""

    def __init__(self, wall: float, metadata: Mapping[str, str]) -> None:
        self.epoch = max(int(wall * 1000), int(metadata.get("epoch", 0)))
        self.seq = max(int(wall * 1_000_000), int(metadata.get("reserved", 0)))
        self._reserve_from = self.seq

    def next(self, owned_since: int) -> Version:
        """The version of a write under an ownership that began at that epoch."""
        if owned_since > self.epoch:
            self.epoch = owned_since
            self._reserve_from = 0  # a restart must not begin below it
        self.seq += 1
        return Version(self.epoch, self.seq)

    def seen(self, version: Version) -> None:
        """There is such a version already."""
        self.epoch = max(self.epoch, version.epoch)
        self.seq = max(self.seq, version.seq)

    def learn(self, version: Version) -> None:
        """Have later versions exceed `version`, which S3 holds.

        A version that no clock of the next centuries gives is not learned: the journal's numbers must not run out
        because of an object with forged metadata.
        """
        if version.epoch > MAX_LEARNED_EPOCH or version.seq > MAX_LEARNED_SEQ:
            return
        if version.epoch > self.epoch:
            self._reserve_from = 0  # a restart must not begin below it
        self.seen(version)

    @property
    def due(self) -> bool:
        """Whether `metadata` should be kept now."""
        return self.seq >= self._reserve_from

    def metadata(self) -> dict[str, str]:
        """What must be on disk before half a block of further versions has been given."""
        self._reserve_from = self.seq + BLOCK // 2
        return {"epoch": str(self.epoch), "reserved": str(self.seq + BLOCK)}
