"""Pure. Which client has read which key, for client-side caching: CLIENT TRACKING."""

from __future__ import annotations


class Tracking:
    """The table of one node."""

    active = False

    def stop(self, client: int) -> None:
        """Forget a client."""

    def read(self, client: int, key: bytes) -> None:
        """Remember that a client has read a key."""
