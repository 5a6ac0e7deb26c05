"""Pure. What a watched key was, also in the form in which nodes send it to each other (MILENA.WATCH)."""

from __future__ import annotations

from typing import Any, NamedTuple

from milena_cache.objects.version import Version
from milena_common.forwarding.transactions import Queued, Transaction
from milena_common.resp.redis_replies import CommandError

# Of commands as this server describes them (`Command`).
QueuedCommand = Queued[Any]
CommandQueue = Transaction[Any]


class Watched(NamedTuple):
    """A key as it was when it was watched.

    process: the node's that owned its slot
    owned_since: the ring epoch since which it did
    version: of its dirty write; None if it had none
    exists, etag, expires_at: of the object
    """

    process: str
    owned_since: int
    version: Version | None
    exists: bool
    etag: str
    expires_at: float

    def encode(self) -> bytes:
        version = "-" if self.version is None else str(self.version)
        fields = self.process or "-", self.owned_since, version, int(self.exists), repr(self.expires_at), self.etag
        return " ".join(map(str, fields)).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Watched:
        """Return what `encode` was called for. Raises CommandError for anything else."""
        try:
            process, since, version, exists, expires_at, etag = encoded.decode().split(" ", 5)
            epoch, _, seq = version.partition("-")
            return cls(
                "" if process == "-" else process,
                int(since),
                None if version == "-" else Version(int(epoch), int(seq)),
                exists == "1",
                etag,
                float(expires_at),
            )
        except ValueError:
            raise CommandError("ERR malformed state of a watched key; nothing was done") from None

    def is_changed(self, now: Watched) -> bool:
        """True if the key may have been written since, and is `now` so.

        A dirty write without a change of version is the same one. One that is not there any more is in S3: then the
        object has its ETag, and was not written if it has the same. A DEL of what does not exist is a write too
        (`decisions.keys.delete`), and no change.
        """
        if (now.process, now.owned_since) != (self.process, self.owned_since):
            return True
        if not (now.exists or self.exists):
            return False
        if now.version is not None and now.version != self.version:
            return True
        return (now.exists, now.etag, now.expires_at) != (self.exists, self.etag, self.expires_at)
