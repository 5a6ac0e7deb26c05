"""Coordination. The traces: which there are, and reading them.

`data/README.md` says where they come from, and under which licence.
"""

from __future__ import annotations

import lzma
from array import array
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parent / "data"
# All with objects of one size, but the last.
NAMES = ("web07", "web12", "oltp", "scarab", "adapt_size")


class Trace(NamedTuple):
    """A sequence of reads.

    objects: the object of each read; numbers from 0, in the order of their first reads
    sizes: the bytes of each object; None if they all count as one
    """

    name: str
    objects: array[int]
    sizes: array[int] | None


def shipped_trace(name: str) -> Trace:
    """Return the trace `name`, one of NAMES."""
    sizes = DATA / f"{name}.sizes.xz"
    return Trace(name, _numbers(DATA / f"{name}.xz"), _numbers(sizes) if sizes.exists() else None)


def trace_of_file(path: Path) -> Trace:
    """Return the trace in a text file: in each line the name of an object, and its bytes if they are to count.

    Raises ValueError with the number of the first line that is something else.
    """
    numbers: dict[str, int] = {}
    objects, sizes = array("I"), array("I")
    with path.open() as lines:
        for at, line in enumerate(lines, 1):
            match line.split():
                case [name]:
                    size = 0
                case [name, text] if text.isdecimal() and int(text) < 2**32:
                    size = int(text)
                case _:
                    expected = "expected a name, or a name and a number of bytes"
                    raise ValueError(f"{path}:{at}: {expected}, got {line.strip()!r}")
            number = numbers.setdefault(name, len(numbers))
            objects.append(number)
            if number == len(sizes):
                sizes.append(size)
    if not objects:
        raise ValueError(f"{path}: it has no line")
    return Trace(path.stem, objects, sizes if any(sizes) else None)


def _numbers(path: Path) -> array[int]:
    numbers = array("I")
    numbers.frombytes(lzma.decompress(path.read_bytes()))
    return numbers
