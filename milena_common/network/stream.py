"""Pure. A blocking connection as a stream of bytes: what the client for threads needs of one.

`milena_common.network.connecting` opens streams. The interface has no flags of system calls and no options of
sockets, because a connection with encryption has neither: its bytes are not those on the socket.

The limit on waiting belongs to the stream, and not to each call, so that a connection whose limit stays the same
pays for it once: a get is one `send_some` and one `recv`.
"""

from __future__ import annotations

from typing import Protocol


class Stream(Protocol):
    """A connection for one thread.

    `send_some`, `recv` and `recv_full` wait for at most the limit, and raise BlockingIOError then. (A TimeoutError
    is something else, an OSError for a peer that does not acknowledge.) They raise OSError when the connection has
    broken. The three that receive return b"" when the peer has ended it.
    """

    def set_limit(self, seconds: float) -> None:
        """Set the seconds, above 0, that each later call may wait. There is no limit before the first call."""

    def send_some(self, data: bytes | memoryview, /) -> int:
        """Send some of `data`, and return how many bytes."""

    def recv(self, max_bytes: int, /) -> bytes:
        """Wait for bytes, and return at most `max_bytes`."""

    def recv_full(self, size: int) -> bytes:
        """Wait for `size` bytes, and return them; fewer if the limit or the connection ends before."""

    def recv_ready(self, max_bytes: int) -> bytes:
        """Return at most `max_bytes` that are here already. Raises BlockingIOError if there are none."""

    def peer_closed(self) -> bool:
        """Return True if the peer has ended the connection, as far as can be seen without waiting."""

    def shutdown(self) -> None:
        """End the connection for both sides, from any thread; a call in flight returns b"" or raises OSError."""

    def close(self) -> None:
        """End the connection in this process; in a forked one, the parent's connection stays open."""
