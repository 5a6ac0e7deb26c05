"""Pure. The scripts that clients have sent, by their digest: EVALSHA names one, and is forwarded as EVAL.

Each process keeps its own: the owner of a script's keys may never have seen it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha1
from typing import Final

from milena_common.resp.redis_replies import CommandError

MAX_SCRIPTS: Final = 1024
MAX_BYTES: Final = 4 * 2**20
# Of one of them.
MAX_SOURCE_BYTES: Final = 64 * 1024
_BY_SOURCE: Final = {b"EVALSHA": b"EVAL", b"EVALSHA_RO": b"EVAL_RO"}
NO_SCRIPT: Final = "NOSCRIPT No matching script. Please use EVAL."


def digest_of(source: bytes) -> bytes:
    """Return the digest of a script. Raises CommandError if it is too long."""
    if len(source) > MAX_SOURCE_BYTES:
        raise CommandError(f"ERR the script has {len(source)} bytes; allowed are at most {MAX_SOURCE_BYTES}")
    return sha1(source).hexdigest().encode()


class Scripts:
    """The newest MAX_SCRIPTS scripts, of MAX_BYTES in all; the least recently used one is dropped."""

    def __init__(self) -> None:
        self._sources: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def add(self, source: bytes) -> bytes:
        """Keep a script, and return its digest. Raises CommandError if it is too long."""
        digest = digest_of(source)
        if digest in self._sources:
            self._sources.move_to_end(digest)
            return digest
        self._sources[digest] = source
        self._bytes += len(source)
        while len(self._sources) > MAX_SCRIPTS or self._bytes > MAX_BYTES:
            self._bytes -= len(self._sources.popitem(last=False)[1])
        return digest

    def has(self, digest: bytes) -> bool:
        return digest.lower() in self._sources

    def source_of(self, digest: bytes) -> bytes:
        """Return the source of a script. Raises CommandError."""
        digest = digest.lower()
        source = self._sources.get(digest)
        if source is None:
            raise CommandError(NO_SCRIPT)
        self._sources.move_to_end(digest)
        return source

    def remove_all(self) -> None:
        self._sources.clear()
        self._bytes = 0

    def as_eval(self, argv: list[bytes]) -> list[bytes]:
        """Return EVAL, EVALSHA, or their read-only forms with the script, and keep it. Raises CommandError."""
        by_source = _BY_SOURCE.get(argv[0].upper())
        if by_source is not None:
            return [by_source, self.source_of(argv[1]), *argv[2:]]
        self.add(argv[1])
        return argv

    def with_source(self, argv: list[bytes]) -> list[bytes]:
        """Return EVALSHA as EVAL if its script is known, for a transaction; else as it is, and EVAL too."""
        return self.as_eval(argv) if argv[0].upper() in _BY_SOURCE and self.has(argv[1]) else argv


def flushed(scripts: Scripts, argv: Sequence[bytes]) -> None:
    """Carry out SCRIPT FLUSH. Raises CommandError."""
    if len(argv) > 3 or (len(argv) == 3 and argv[2].upper() not in (b"SYNC", b"ASYNC")):
        raise CommandError("ERR SCRIPT FLUSH only support SYNC|ASYNC option")
    scripts.remove_all()
