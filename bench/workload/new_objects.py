"""Pure. The objects of writes: keys that were never used before, and distinct values of 1 KiB.

Making one costs next to nothing, so that the load generator does not become the bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

VALUE_BYTES = 1024


def new_objects(series: str) -> Callable[[], tuple[bytes, bytes]]:
    """Return a function that returns a new key, beginning with `series`, and a value, at next to no cost."""
    numbers = count()
    prefix = f"new/{series}/".encode()
    filler = bytes(VALUE_BYTES - 8)

    def new_object() -> tuple[bytes, bytes]:
        number = next(numbers)
        return b"%b%d" % (prefix, number), number.to_bytes(8, "big") + filler

    return new_object
