"""Pure. LCS: the longest common subsequence of two values, by the table and the way back through it that Redis has.

Which of several longest ones is returned depends on the way, so that is Redis's (`src/t_string.c`: lcsCommand).
"""

from __future__ import annotations

from array import array
from typing import Any

from milena_cache.servers.resp.decisions.values import Values
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer

# The product of the two lengths: some 50 ms of work, in which the node does nothing else.
MAX_CELLS = 2**19


def lcs(values: Values, argv: list[bytes]) -> Any:
    length_only = with_ranges = with_lengths = False
    shortest = 0
    at = 3
    while at < len(argv):
        option = argv[at].upper()
        if option == b"IDX":
            with_ranges = True
        elif option == b"LEN":
            length_only = True
        elif option == b"WITHMATCHLEN":
            with_lengths = True
        elif option == b"MINMATCHLEN" and at + 1 < len(argv):
            shortest = max(0, integer(argv[at + 1]))
            at += 1
        else:
            raise CommandError(SYNTAX)
        at += 1
    if with_ranges and length_only:
        raise CommandError("ERR If you want both the length and indexes, please just use IDX.")
    first, second = values.value_of(argv[1]) or b"", values.value_of(argv[2]) or b""
    if len(first) * len(second) > MAX_CELLS:
        raise CommandError(
            f"ERR LCS of values of {len(first)} and {len(second)} bytes: the product may be at most {MAX_CELLS}"
        )
    table = _table(first, second)
    if length_only:
        return table[-1][-1]
    common, matches = _way_back(first, second, table, shortest, with_lengths=with_lengths)
    return {"matches": matches, "len": table[-1][-1]} if with_ranges else common


def _table(first: bytes, second: bytes) -> list[array[int]]:
    """Return for each pair of prefixes the length of their longest common subsequence."""
    row = array("L", bytes(array("L").itemsize * (len(second) + 1)))
    table = [row]
    for one in first:
        above, row = row, array("L", [0])
        last = 0
        for place, other in enumerate(second):
            if one == other:
                last = above[place] + 1
            elif above[place + 1] > last:
                last = above[place + 1]
            row.append(last)
        table.append(row)
    return table


def _way_back(
    first: bytes, second: bytes, table: list[array[int]], shortest: int, *, with_lengths: bool
) -> tuple[bytes, list[list[Any]]]:
    common = bytearray()
    matches: list[list[Any]] = []
    # The range of matching bytes that is open: its first and last place in each value; None if none is.
    found: list[int] | None = None
    i, j = len(first), len(second)
    while i and j:
        closes = False
        if first[i - 1] == second[j - 1]:
            common.append(first[i - 1])
            if found is None:
                found = [i - 1, i - 1, j - 1, j - 1]
            elif found[0] == i and found[2] == j:
                found[0] -= 1
                found[2] -= 1
            else:
                closes = True
            if not found[0] or not found[2]:
                closes = True
            i -= 1
            j -= 1
        else:
            if table[i - 1][j] > table[i][j - 1]:
                i -= 1
            else:
                j -= 1
            closes = found is not None
        if closes and found is not None:
            length = found[1] - found[0] + 1
            if length >= shortest:
                matches.append([found[:2], found[2:], *([length] if with_lengths else [])])
            found = None
    return bytes(reversed(common)), matches
