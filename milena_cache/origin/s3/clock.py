"""Pure. S3's time of day, and the skew of this machine's clock.

The expiry of an object depends on the time of day. A machine whose clock is wrong, even briefly, must not remove
objects that have not expired, so S3's own clock is followed: the `Date` header of a response plus the monotonic
time since then is S3's time at any later point, independent of changes of the machine's clock.

The machine's clock is used while the two differ by at most `MAX_SKEW_SECONDS`, and before S3 has responded. If they
differ by more, S3's time replaces it (`CorrectedClock`), and nothing is removed until they agree again.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

from milena_common.runtime.clock import Clock

MAX_SKEW_SECONDS = 60.0


class S3Clock:
    """S3's time of day, from the latest response with a date.

    zero: S3's time at the zero of the monotonic clock; None before the first response. A single attribute, since
        responses arrive on other threads than the reader's
    observed_at: when the latest response arrived, monotonic seconds
    """

    def __init__(self) -> None:
        self.zero: float | None = None
        self.observed_at = float("-inf")

    def observed(self, date: float, requested_at: float, received_at: float) -> None:
        """Record that a response has the date `date` (seconds since 1970), a header with whole seconds.

        `requested_at` and `received_at` are monotonic seconds. A response that took longer than the allowed skew is
        ignored.
        """
        if received_at - requested_at <= MAX_SKEW_SECONDS:
            self.zero = date + 0.5 - (requested_at + received_at) / 2
            self.observed_at = received_at

    @property
    def known(self) -> bool:
        """True if a response has had S3's time."""
        return self.zero is not None

    def time(self, now: float) -> float | None:
        """Return S3's time of day at `now` (monotonic), in seconds since 1970; None if unknown."""
        return None if self.zero is None else self.zero + now

    def skew(self, wall: float, now: float) -> float:
        """Return the seconds by which `wall` is ahead of S3's time; 0 if unknown."""
        return 0.0 if self.zero is None else wall - (self.zero + now)


def date_of(header: str) -> float | None:
    """Return the time of a `Date` header, in seconds since 1970; None if it is invalid."""
    try:
        timestamp = parsedate_to_datetime(header)
    except ValueError:
        return None
    # Without a zone it would count as local time; HTTP's dates are always in GMT.
    return timestamp.replace(tzinfo=timestamp.tzinfo or UTC).timestamp()


def is_skewed(skew: float) -> bool:
    """True if clocks that differ by `skew` seconds must not decide about removals."""
    return abs(skew) > MAX_SKEW_SECONDS


class CorrectedClock:
    """The machine's clocks, with S3's time of day where the two differ by more than `MAX_SKEW_SECONDS`.

    now: as the machine's, and the machine's own function, since each command of RESP reads it several times
    """

    def __init__(self, machine: Clock, s3: S3Clock) -> None:
        self.machine = machine
        self.s3 = s3
        self.now = machine.now

    def wall(self) -> float:
        wall = self.machine.wall()
        zero = self.s3.zero
        if zero is None or -MAX_SKEW_SECONDS <= wall - (there := zero + self.now()) <= MAX_SKEW_SECONDS:
            return wall
        return there

    def cpu(self) -> float:
        return self.machine.cpu()

    async def sleep(self, seconds: float) -> None:
        await self.machine.sleep(seconds)

    @property
    def skew(self) -> float:
        """Return the seconds by which the machine's time of day is ahead of S3's; 0 if unknown."""
        return self.skew_of(self.machine.wall())

    def skew_of(self, wall: float) -> float:
        """Return the same for `wall`, the machine's time of day now."""
        return self.s3.skew(wall, self.machine.now())

    def degraded(self) -> list[str]:
        """Return the reason why an operator should look at the machine's clock, if there is one."""
        skew = self.skew
        if not is_skewed(skew):
            return []
        where = "ahead of" if skew > 0 else "behind"
        return [
            f"clock: this machine's is {abs(skew):.0f} s {where} S3's; S3's is used, and expired objects are not "
            "removed"
        ]
