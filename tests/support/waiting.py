"""Shell. Waiting, within bounds, for something that another process does and does not announce."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def wait_until(what: str, attempt: Callable[[], _T | None], timeout: float, pause: float = 0.02) -> _T:
    """Call `attempt` every `pause` seconds until its result is true, and return that.

    Raises TimeoutError naming `what` after `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while not (result := attempt()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(pause)
    return result
