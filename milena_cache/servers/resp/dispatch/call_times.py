"""Pure. The timeouts and deadlines that Milena's own callers send along, with MILENA.CALL and with SET … WITHIN.

A timeout counts from when the node has read a call. A deadline is a time on the node's monotonic clock, after which
its caller has given up, and may have written by another way (`milena_common.resp.peer_clock`).
"""

from __future__ import annotations

from typing import Final

from milena_cache.servers.resp.dispatch.admission import RETRY_AFTER_MS
from milena_common.api.errors import DeadlineExceeded, InvalidRequest, Overloaded
from milena_common.resp.redis_replies import integer

MAX_TIMEOUT_MS: Final = 24 * 3600 * 1000


def remaining_seconds(timeout: bytes, deadline: bytes, waited: float, now_ms: int) -> float:
    """Return the seconds that a call has left. `timeout` and `deadline` are in milliseconds, "" is no deadline.

    `waited`: seconds since the call was read; `now_ms`: the node's monotonic time. Raises InvalidRequest or
    CommandError for what is not allowed, DeadlineExceeded or Overloaded if the time is over.
    """
    seconds = timeout_ms(timeout) / 1000 - waited
    if seconds <= 0:
        raise DeadlineExceeded(f"the call waited for {waited:.1f} s, longer than its timeout; nothing was done")
    return min(seconds, _until(deadline, now_ms)) if deadline else seconds


def timeout_ms(word: bytes) -> int:
    """Return a timeout in milliseconds. Raises InvalidRequest or CommandError."""
    # Most are such, and cost no error text.
    if word.isdigit() and len(word) < 8 and (milliseconds := int(word)):
        return milliseconds
    error = f"ERR timeout_ms: got {word[:80].decode(errors='replace')!r}; allowed: 1 to {MAX_TIMEOUT_MS}"
    milliseconds = integer(word, error)
    if not 1 <= milliseconds <= MAX_TIMEOUT_MS:
        raise InvalidRequest(error.removeprefix("ERR "))
    return milliseconds


def _until(deadline_ms: bytes, now_ms: int) -> float:
    """Return the seconds until the deadline of a call. Raises CommandError, or Overloaded if it has passed."""
    shown = deadline_ms[:80].decode(errors="replace")
    left = integer(deadline_ms, f"ERR deadline_ms: got {shown!r}; allowed: whole numbers") - now_ms
    if left <= 0:
        raise Overloaded(
            f"retry-after-ms={RETRY_AFTER_MS} the call arrived {-left / 1000:.1f} s after its caller's deadline; "
            "nothing was done"
        )
    return left / 1000
