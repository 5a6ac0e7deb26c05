"""Pure. The course of one call: its deadline, its attempts, and the error with which it ends.

`Call` decides, and does no I/O: `milena_client.aio.caller`, its sync twin and the batches make the attempts, report
the result and time of each, and wait for `pause`. A call that succeeds at its first attempt allocates no state for
retries. Every pause ends before the deadline, and an operation is repeated only where `core.retry` allows it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from milena_client.core.limits import MIN_ATTEMPT_SECONDS
from milena_client.core.operations import Operation
from milena_client.core.rate_limit_queue import RateLimitQueue
from milena_client.core.retry import Attempts, RetryBudget, RetryPolicy
from milena_client.core.values import checked_timeout
from milena_common.api.errors import DeadlineExceeded, MilenaError, Moved, NoNodes
from milena_common.resp.client_commands import NOT_SENT

A = TypeVar("A")


class Retries:
    """The state that the calls of one client share: their default timeout, retry policy and budget, and rate-limit
    queue.

    `timeout` is in seconds. Raises InvalidRequest for an invalid one.
    """

    __slots__ = ("_policy", "budget", "queue", "timeout")

    rng = staticmethod(random.random)

    def __init__(self, timeout: float, policy: RetryPolicy) -> None:
        self.timeout = checked_timeout(timeout)
        self.budget = RetryBudget(policy)
        self.queue = RateLimitQueue()
        self._policy = policy

    def attempts(self, *, repeatable: bool, deadline: float) -> Attempts:
        """Return the retry decisions of one call, which ends at `deadline`."""
        return Attempts(
            self._policy, self.budget, self.queue, repeatable=repeatable, deadline=deadline, rng=self.rng
        )


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A first attempt that was made before the call began.

    - `began`: when, in seconds on the client's clock.
    - `error`: how it failed.
    """

    began: float
    error: MilenaError


def failed_attempt(began: float, found: object) -> FailedAttempt | None:
    """Return the attempt that the fast path made at `began`, with the result `found`.

    None if there was no attempt, or certainly nothing was done: after Moved and NoNodes the general path finds
    another node, or the router, at once.
    """
    if not isinstance(found, MilenaError) or found is NOT_SENT or isinstance(found, Moved | NoNodes):
        return None
    return FailedAttempt(began, found)


class Call(Generic[A]):
    """One call of `operation`, which begins at `now` and has `timeout` seconds (None: those of `retries`).

    With `first` it begins with what follows that attempt: its time counts from there. All times are seconds on one
    monotonic clock. `pause` is how many seconds to wait before the next attempt. Raises InvalidRequest for a
    timeout that is not allowed, and as `attempt_failed` does if `first` was the last attempt.
    """

    __slots__ = ("_attempts", "_retries", "_timeout", "deadline", "operation", "pause")

    def __init__(
        self,
        operation: Operation[A],
        retries: Retries,
        timeout: float | None,
        now: float,
        first: FailedAttempt | None = None,
    ) -> None:
        timeout = retries.timeout if timeout is None else checked_timeout(timeout)
        self.operation = operation
        self._retries = retries
        self._timeout = timeout
        self._attempts: Attempts | None = None
        if first is None:
            self.deadline = now + timeout
            self.pause = retries.queue.delay(now, timeout)
        else:
            self.deadline = first.began + timeout
            self.pause = 0.0
            self.attempt_failed(first.error, now)

    def remaining(self, now: float) -> float:
        """Return the seconds that an attempt at `now` may take."""
        return max(self.deadline - now, MIN_ATTEMPT_SECONDS)

    def attempt_failed(self, error: MilenaError, now: float) -> None:
        """Set `pause` after an attempt that failed with `error`. Raises MilenaError if it was the last one."""
        if self._attempts is None:
            self._attempts = self._retries.attempts(repeatable=self.operation.repeatable, deadline=self.deadline)
        pause = self._attempts.next_delay(error, now)
        if pause is None:
            cause = self._attempts.error
            assert cause is not None
            if isinstance(cause, DeadlineExceeded):
                raise self.operation.timed_out(self._timeout, cause) from None
            raise cause from None
        self.pause = pause

    def succeeded(self, response: Any) -> A:
        """Return the operation's result from `response`. Raises MilenaError if the response reports a failure."""
        self._retries.budget.refund_success()
        return self.operation.read(response)
