"""Pure. How a deadline is divided on the way inwards, so that the innermost part answers first.

A caller that waits 5 s learns more from "the node did not answer" than from its own timeout. So each hop
gives the next one a little less than it has: a tenth less, between 20 and 250 ms.
"""

from __future__ import annotations


def inner(remaining: float) -> float:
    """Seconds to give to the next hop when `remaining` seconds are left here. Never negative."""
    return max(0.0, remaining - min(max(0.1 * remaining, 0.020), 0.250))


def time_for_room(remaining: float | None) -> float | None:
    """Return for how many seconds a call with `remaining` seconds waits for room: nine tenths. None: without end.

    What has found no room by then would hardly be done in the rest. Rejected then, its caller learns which limit it
    was; at its deadline the transport ends the call, and says nothing.
    """
    return None if remaining is None else 0.9 * max(0.0, remaining)
