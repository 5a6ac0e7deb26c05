"""Pure. The keys of commands that say how many they have: EVAL and its relatives, MSETEX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from milena_common.resp.redis_replies import CommandError, integer

MAX_PAIRS: Final = 2**31 - 1


class NumberedKeys(NamedTuple):
    """Positions among the arguments of a command, its name included.

    number: of the number of keys
    first, step: of the first key, and from one to the next; an argument that belongs to a key follows it
    """

    number: int
    first: int
    step: int = 1

    def positions(self, argv: Sequence[bytes]) -> range:
        """Return the positions of the keys; none if their number is wrong."""
        try:
            number = integer(argv[self.number])
        except (CommandError, IndexError):
            number = 0
        stop = self.first + number * self.step
        return range(self.first, stop if number > 0 and stop <= len(argv) else self.first, self.step)

    def keys_in(self, argv: Sequence[bytes]) -> list[bytes]:
        """Return the keys; none if their number is wrong."""
        return [argv[at] for at in self.positions(argv)]


KEYS_OF_SCRIPT: Final = NumberedKeys(2, 3)
KEYS_OF_MSETEX: Final = NumberedKeys(1, 2, 2)


def check_number_of_keys(argv: Sequence[bytes]) -> None:
    """Raise CommandError if the number of keys of EVAL or EVALSHA is wrong."""
    number = integer(argv[2])
    if number < 0:
        raise CommandError("ERR Number of keys can't be negative")
    if number > len(argv) - 3:
        raise CommandError("ERR Number of keys can't be greater than number of args")


def end_of_pairs(argv: Sequence[bytes]) -> int:
    """Return the position behind the last value of MSETEX. Raises CommandError if the number of pairs is wrong."""
    error = "ERR invalid numkeys value"
    number = integer(argv[1], error)
    if not 0 < number <= MAX_PAIRS:
        raise CommandError(error)
    end = 2 + 2 * number
    if end > len(argv):
        raise CommandError("ERR wrong number of key-value pairs")
    return end
