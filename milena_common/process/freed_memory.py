"""Shell. Has the allocator keep freed memory for the next large value, in place of returning it to the system.

A reader of a large object frees a few megabytes for each request, and takes as many for the next one. glibc returns
free memory beyond a threshold to the system at once, which clears it page by page when it is taken again: for a
reader of values in a node's memory that was three quarters of its processor time.
"""

from __future__ import annotations

from functools import cache
from typing import Final

# More than what a request of a reader takes. What is kept is at most twice as much.
KEPT_BYTES: Final = 8 * 2**20


@cache
def keep_freed_memory() -> None:
    """Raise the threshold; does nothing with other allocators, or where MALLOC_TRIM_THRESHOLD_ sets it.

    glibc raises it by itself, to twice the size of the largest block that was freed. This one is never written to,
    so that it takes no memory.
    """
    bytearray(KEPT_BYTES)
