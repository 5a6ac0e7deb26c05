"""Pure. The commands of a transaction, from MULTI to EXEC, and the keys that are watched for it; their bounds."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from milena_cache.objects.version import Version
from milena_common.resp.redis_replies import CommandError

# Of one transaction: commands, and bytes of their arguments, which count as bytes in flight until its end.
MAX_COMMANDS: Final = 4096
MAX_BYTES: Final = 16 * 2**20
# Keys that one connection may watch.
MAX_WATCHED: Final = 256


class Queued(NamedTuple):
    """A command of a transaction, a `Command` (a subcommand if there is one), and its arguments."""

    command: Any
    argv: list[bytes]


class Transaction:
    """What was queued since MULTI.

    commands: in their order
    bytes: of their arguments
    failed: True if a command was rejected, for which EXEC will fail
    key: the first key of its commands, with whose slot the others are compared; empty without one
    """

    __slots__ = ("bytes", "commands", "failed", "key")

    def __init__(self) -> None:
        self.commands: list[Queued] = []
        self.bytes = 0
        self.failed = False
        self.key = b""

    def queue(self, command: Any, argv: list[bytes]) -> None:
        """Add a `Command`. Raises CommandError if the transaction would be too large."""
        size = sum([len(word) for word in argv])
        if len(self.commands) >= MAX_COMMANDS or self.bytes + size > MAX_BYTES:
            raise CommandError(
                f"ERR a transaction has at most {MAX_COMMANDS} commands and {MAX_BYTES} bytes of arguments; "
                "nothing of it will be done"
            )
        self.commands.append(Queued(command, argv))
        self.bytes += size


class Watched(NamedTuple):
    """A key as it was when it was watched.

    owned_since: the ring epoch since which this node owned its slot
    version: of its dirty write; None if it had none
    exists, etag, expires_at: of the object
    """

    owned_since: int
    version: Version | None
    exists: bool
    etag: str
    expires_at: float

    def is_changed(self, now: Watched) -> bool:
        """True if the key may have been written since, and is `now` so.

        A dirty write without a change of version is the same one. One that is not there any more is in S3: then the
        object has its ETag, and was not written if it has the same. A DEL of what does not exist is a write too
        (`decisions.keys.delete`), and no change.
        """
        if now.owned_since != self.owned_since:
            return True
        if not (now.exists or self.exists):
            return False
        if now.version is not None and now.version != self.version:
            return True
        return (now.exists, now.etag, now.expires_at) != (self.exists, self.etag, self.expires_at)
