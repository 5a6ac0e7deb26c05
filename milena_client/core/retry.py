"""Pure. Decides whether a failed call is tried again, and after how long. Time and randomness are arguments.

What may be repeated depends on what is certain. A write that may have been made is never made again: the second one
could overwrite what another client has written between the two.

    error                          read    write   costs a token
    RateLimited                    yes     yes     no
    Overloaded, NoNodes, TryAgain,
    Moved, NodeUnreachable,
    WrongNode                      yes     yes     yes     (nothing was done)
    any other Unavailable          yes     no      yes     (a write may have happened)
    everything else                no      no

**The budget.** Retries help against a lost packet and hurt in an outage, when every call would be made many
times. So all calls of a client share a number of tokens: a retry takes one, a success gives a tenth of one
back; with none left, failures are final at once. (gRPC's retry throttling, gRFC A6.) A rate limit costs none:
the router has named the time at which the request is admitted, rejecting it costs next to nothing, and the calls of
a client queue (`milena_client.core.rate_limit_queue`).

Every pause must end before the call's deadline. If it would not, the error that caused it is raised, which is
more useful than "timed out".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from milena_client.core.rate_limit_queue import RateLimitQueue
from milena_common.api.errors import (
    DeadlineExceeded,
    MilenaError,
    Moved,
    NodeUnreachable,
    NoNodes,
    Overloaded,
    RateLimited,
    TryAgain,
    Unavailable,
    WrongNode,
)
from milena_common.runtime.backoff import Backoff


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a client tries failed calls again.

    - `first`, `max_delay`: bounds of the random pauses between attempts, in seconds; they grow from the first to
      the second.
    - `tokens`: the retry budget of the client: how many retries there can be without a success between them, 0 for
      none at all. A rate limit costs none.
    - `refund`: how many tokens a success gives back.

    The default is enough for a batch to wait out a lost node (64 calls in flight, a third of them to that node,
    eight retries each within a lease); beyond that, retries are a tenth of the successes.
    """

    first: float = 0.05
    max_delay: float = 1.0
    tokens: float = 200.0
    refund: float = 0.1


DEFAULT_RETRY = RetryPolicy()


# Errors with which the node or the router has certainly not done anything.
_NOTHING_DONE = (Overloaded, NoNodes, TryAgain, NodeUnreachable, Moved, WrongNode)


class RetryBudget:
    """The tokens that all calls of one client share.

    Takes no lock. Two threads that read `_tokens` before either writes it take one token for both, or add one
    refund for both; a lock on every call would cost more than that is worth.
    """

    __slots__ = ("_max_tokens", "_refund", "_tokens")

    def __init__(self, policy: RetryPolicy) -> None:
        self._max_tokens = policy.tokens
        self._refund = policy.refund
        self._tokens = policy.tokens

    def refund_success(self) -> None:
        """Give back a part of a token, for a call that succeeded."""
        if self._tokens < self._max_tokens:
            self._tokens = min(self._max_tokens, self._tokens + self._refund)

    def take_token(self) -> bool:
        """Take one token; False if there is none left."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Attempts:
    """The failures of one call so far.

    - `deadline`: on the clock whose time `next_delay` is given, in seconds.
    - `error`: what to raise once `next_delay` has returned None.
    """

    __slots__ = ("_backoff", "_budget", "_failures", "_queue", "_repeatable", "_rng", "deadline", "error")

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget,
        queue: RateLimitQueue,
        *,
        repeatable: bool,
        deadline: float,
        rng: Callable[[], float],
    ) -> None:
        self._backoff = Backoff(policy.first, policy.max_delay)
        self._budget = budget
        self._queue = queue
        self._repeatable = repeatable
        self._rng = rng
        self._failures = 0
        self.deadline = deadline
        self.error: MilenaError | None = None

    def next_delay(self, error: MilenaError, now: float) -> float | None:
        """Return the seconds to wait before the next attempt, or None: the call has failed with `self.error`."""
        if isinstance(error, DeadlineExceeded) and self.error is not None:
            return None  # the time ran out over retries: the error before it is the cause
        self.error = error
        rate_limited = isinstance(error, RateLimited)
        nothing_done = rate_limited or isinstance(error, _NOTHING_DONE)
        nothing_done = nothing_done or (isinstance(error, Unavailable) and error.nothing_sent)
        if not nothing_done and not (self._repeatable and isinstance(error, Unavailable)):
            return None
        self._failures += 1
        delay = self._backoff.delay(self._failures, self._rng)
        if isinstance(error, RateLimited):
            delay = max(delay, self._queue.rejected(error.retry_after, now, was_queued=self._failures > 1))
        elif isinstance(error, Overloaded):
            # A random delay after the hint: otherwise all callers that were rejected together would come back
            # together.
            delay += error.retry_after
        if now + delay >= self.deadline or not (rate_limited or self._budget.take_token()):
            return None
        return delay
