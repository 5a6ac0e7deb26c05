"""Pure. The commands by which a router subscribes at a node for its clients, as a relay (`channels`).

`MILENA.SUBSCRIBE kind name [...]` and `MILENA.UNSUBSCRIBE kind name [...]`: the kind is `c`, `p` for a pattern, or
`s` for a shard channel. Their reply is OK, where SUBSCRIBE has messages: pushes, for which no request could wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from milena_common.pubsub.channels import Kind
from milena_common.resp.encoding import command
from milena_common.resp.redis_replies import SYNTAX, CommandError, wrong_arity

SUBSCRIBE: Final = b"MILENA.SUBSCRIBE"
UNSUBSCRIBE: Final = b"MILENA.UNSUBSCRIBE"
# Names, and their bytes, of one command.
MAX_NAMES: Final = 1024
MAX_BYTES: Final = 2**20
_LETTERS: Final[dict[Kind, bytes]] = {"channel": b"c", "pattern": b"p", "shard": b"s"}
_KINDS: Final[dict[bytes, Kind]] = {letter: kind for kind, letter in _LETTERS.items()}


def commands(word: bytes, names: Iterable[tuple[Kind, bytes]]) -> Iterator[bytes]:
    """Yield the encoded commands that say `word` of all `names`."""
    argv: list[bytes] = []
    size = 0
    for kind, name in names:
        if argv and (len(argv) >= 2 * MAX_NAMES or size + len(name) > MAX_BYTES):
            yield command(word, *argv)
            argv, size = [], 0
        argv += _LETTERS[kind], name
        size += len(name)
    if argv:
        yield command(word, *argv)


def names_in(argv: Sequence[bytes]) -> list[tuple[Kind, bytes]]:
    """Return the names in the arguments of such a command. Raises CommandError."""
    if not len(argv) % 2:
        raise wrong_arity(argv[0].decode(errors="replace").lower())
    try:
        return [(_KINDS[letter], name) for letter, name in zip(argv[1::2], argv[2::2], strict=True)]
    except KeyError:
        raise CommandError(SYNTAX) from None
