"""Pure. Divides a deadline among hops, so that the innermost one times out first.

For a caller that waits 5 s the error "the node did not respond" is more useful than its own timeout. So each hop
gives the next one a tenth less than it has, at least 20 and at most 250 ms less.
"""

from __future__ import annotations


def inner(remaining: float) -> float:
    """Return the timeout of the next hop when `remaining` seconds are left here. Never negative."""
    return max(0.0, remaining - min(max(0.1 * remaining, 0.020), 0.250))


def time_for_room(remaining: float | None) -> float | None:
    """Return the seconds that a call with `remaining` seconds waits for room: nine tenths. None: no limit.

    A call that found no room by then would hardly finish in the rest. Rejected then, its caller gets an error that
    names the limit; at the deadline the transport would end the call without a reason.
    """
    return None if remaining is None else 0.9 * max(0.0, remaining)
