"""Pure. What time it is at S3, and by how much this machine's clock differs from that.

Whether an object has come to its end is a question of the time of day. A machine whose clock is wrong, if only for
a moment, must not remove objects that are still to exist, so S3's own clock is followed: the `Date` header of an
answer and the monotonic clock since then give S3's time at any later moment, whatever is done to the clock of the
machine.

The machine's clock counts as long as the two differ by at most `MAX_SKEW_SECONDS`, and before S3 has answered. If
they differ by more, S3's time takes its place (`CorrectedClock`), and nothing is removed until they agree again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from milena_common.runtime.clock import Clock

MAX_SKEW_SECONDS = 60.0


class S3Clock:
    """S3's time of day, from the latest answer that told it."""

    def __init__(self) -> None:
        # S3's time at the zero of the monotonic clock; None before the first answer. One attribute, since answers
        # arrive on other threads than the one that reads.
        self._zero: float | None = None
        self.observed_at = float("-inf")

    def observed(self, date: float, requested_at: float, received_at: float) -> None:
        """Take in that an answer is dated `date` (seconds since 1970), a header with whole seconds.

        `requested_at` and `received_at` are monotonic seconds. An answer that took longer than the clocks may
        differ tells nothing.
        """
        if received_at - requested_at <= MAX_SKEW_SECONDS:
            self._zero = date + 0.5 - (requested_at + received_at) / 2
            self.observed_at = received_at

    @property
    def known(self) -> bool:
        """True if S3 has told its time."""
        return self._zero is not None

    def time(self, now: float) -> float | None:
        """Return S3's time of day at `now` (monotonic), in seconds since 1970; None if it is not known."""
        return None if self._zero is None else self._zero + now

    def skew(self, wall: float, now: float) -> float:
        """Return by how many seconds `wall` is ahead of S3's time; 0 if that is not known."""
        return 0.0 if self._zero is None else wall - (self._zero + now)


def date_of(header: str) -> float | None:
    """Return what a `Date` header says, in seconds since 1970; None if it is no date."""
    try:
        timestamp = parsedate_to_datetime(header)
    except ValueError:
        return None
    # Without a zone it would be taken for local time; HTTP's dates are always in GMT.
    return timestamp.replace(tzinfo=timestamp.tzinfo or UTC).timestamp()


def is_skewed(skew: float) -> bool:
    """Return whether clocks that differ by `skew` seconds must not decide what is removed."""
    return abs(skew) > MAX_SKEW_SECONDS


@dataclass(frozen=True, slots=True)
class CorrectedClock:
    """The machine's clocks, but S3's time of day where the two differ by more than `MAX_SKEW_SECONDS`."""

    machine: Clock
    s3: S3Clock

    def now(self) -> float:
        return self.machine.now()

    def wall(self) -> float:
        wall = self.machine.wall()
        there = self.s3.time(self.machine.now())
        return wall if there is None or abs(wall - there) <= MAX_SKEW_SECONDS else there

    def cpu(self) -> float:
        return self.machine.cpu()

    async def sleep(self, seconds: float) -> None:
        await self.machine.sleep(seconds)

    @property
    def skew(self) -> float:
        """By how many seconds the machine's time of day is ahead of S3's; 0 if that is not known."""
        return self.skew_of(self.machine.wall())

    def skew_of(self, wall: float) -> float:
        """Return the same for `wall`, the machine's time of day now."""
        return self.s3.skew(wall, self.machine.now())

    def degraded(self) -> list[str]:
        """Return the reason to look at the machine's clock, if there is one."""
        skew = self.skew
        if not is_skewed(skew):
            return []
        where = "ahead of" if skew > 0 else "behind"
        return [
            f"clock: this machine's is {abs(skew):.0f} s {where} S3's; S3's is used, and objects that have come to "
            "their end are not removed"
        ]
