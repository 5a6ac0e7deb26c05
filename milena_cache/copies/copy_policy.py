"""Pure. What becomes of a write whose copies cannot be made, and which ring has too few holders.

    every listed holder has it, and there are as many as are wanted    acknowledged
    the ring never had as many members as COPIES                       acknowledged with what the ring wants
    too few holders, or one that cannot take it                        COPIES_POLICY: through S3, or refused

A write is never acknowledged with fewer copies than the ring wants unless S3 has it.
"""

from __future__ import annotations

from milena_cache.objects.write_request import CopiesPolicy
from milena_common.api.errors import Unavailable

REQUIRE: CopiesPolicy = "require"


def is_short(target: int, holders: int) -> bool:
    """Return True if a slot with so many holders has too few for a write to be in `target` journals."""
    return holders < target - 1


def not_allowed(why: str) -> Unavailable:
    """Return the error for a write that COPIES_POLICY=require does not let go through S3 instead."""
    return Unavailable(
        f"the outcome of the write is unknown: not enough other nodes have a copy of it ({why}), and "
        "COPIES_POLICY=require allows no other way; with COPIES_POLICY=through it would go through S3"
    )


def fewer_than_configured(configured: int, target: int, members: int) -> str:
    """Return what to say of a ring of `members` that never had as many as COPIES; "" if it has had."""
    journals = max(1, target)  # 0 in a ring without copies
    if members < 1 or journals >= configured:
        return ""
    return (
        f"copies: writes are acknowledged in {journals} of {configured} journals (COPIES): the ring has "
        "never had more nodes that keep copies"
    )
