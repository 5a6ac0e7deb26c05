"""Pure. Whether S3 is believed to work, so that readers who have a copy need not each find out by waiting.

After a failure S3 is suspect until something succeeds. While it is suspect, a reader whose copy may be served
stale gets it at once, and only one such reader in each `PROBE_SECONDS` starts a read of S3 behind its back.
Readers without a copy always ask: they have nothing to lose, and their success clears the suspicion.
"""

from __future__ import annotations

PROBE_SECONDS = 1.0


class OriginHealth:
    """`now` is monotonic seconds."""

    def __init__(self) -> None:
        self.suspect = False
        self._next_probe = 0.0

    def succeeded(self) -> bool:
        """Whether that is news."""
        news, self.suspect = self.suspect, False
        return news

    def failed(self, now: float) -> bool:
        """Whether that is news."""
        news = not self.suspect
        if news:
            self._next_probe = now + PROBE_SECONDS
        self.suspect = True
        return news

    def may_probe(self, now: float) -> bool:
        """Whether a read may be started on behalf of somebody who does not wait for it."""
        if not self.suspect:
            return True
        if now < self._next_probe:
            return False
        self._next_probe = now + PROBE_SECONDS
        return True
