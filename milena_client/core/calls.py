"""Coordination. Runs operations over a transport: deadline, retries, and how a failure is told.

`Caller` is for threads, `AsyncCaller` for an event loop; what they decide is in `milena_client.core.retry`. The way
of a call that succeeds is kept short: nothing is set up for retrying until something has failed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TypeVar

from milena_client.core.operations import Operation
from milena_client.core.rate_limit_queue import Pace
from milena_client.core.retry import Attempts, RetryBudget, RetryPolicy
from milena_client.core.values import checked_timeout
from milena_common.api.errors import DeadlineExceeded, MilenaError, Moved, NoNodes
from milena_common.resp.client_commands import NOT_SENT
from milena_common.rpc.transport import AsyncTransport, Transport
from milena_common.runtime.blocking_clock import BlockingClock
from milena_common.runtime.clock import Clock

A = TypeVar("A")

# Twice a node's lease (LEASE_SECONDS): a node that dies holds its keys until its lease is over, and then the calls
# for them still have time with the next owner.
DEFAULT_TIMEOUT = 10.0
# Waiting for S3 to have what is dirty may take as long as S3 takes.
FLUSH_TIMEOUT = 60.0


class Retries:
    """What the calls of one client share: time, retry policy and budget, and turns under a rate limit."""

    __slots__ = ("_policy", "budget", "pace", "timeout")

    draw = staticmethod(random.random)

    def __init__(self, timeout: float, policy: RetryPolicy) -> None:
        self.timeout = checked_timeout(timeout)
        self.budget = RetryBudget(policy)
        self.pace = Pace()
        self._policy = policy

    def attempts(self, operation: Operation[A], deadline: float) -> Attempts:
        return Attempts(
            self._policy,
            self.budget,
            self.pace,
            repeatable=operation.repeatable,
            deadline=deadline,
            draw=self.draw,
        )


def failure(operation: Operation[A], attempts: Attempts, timeout: float) -> MilenaError:
    """What to raise when no attempt is left."""
    error = attempts.error
    assert error is not None
    return operation.timed_out(timeout, error) if isinstance(error, DeadlineExceeded) else error


@dataclass(frozen=True, slots=True)
class Failed:
    """A first attempt that somebody has made already: when it began, on the caller's clock, and how it failed."""

    began: float
    error: MilenaError


def first_attempt(began: float, found: object) -> Failed | None:
    """What is to be made of an attempt by the short way. None: nothing was tried, or nothing done.

    Moved, NoNodes: the general way finds another node, or the router, at once.
    """
    if not isinstance(found, MilenaError) or found is NOT_SENT or isinstance(found, Moved | NoNodes):
        return None
    return Failed(began, found)


class Caller:
    """Runs operations one at a time, in the caller's thread. Thread-safe."""

    __slots__ = ("clock", "retries", "transport")

    def __init__(self, transport: Transport, retries: Retries, clock: BlockingClock) -> None:
        self.transport = transport
        self.retries = retries
        self.clock = clock

    def run(self, operation: Operation[A], timeout: float | None = None, first: Failed | None = None) -> A:
        """What the operation answers, within `timeout` seconds (None: the client's). Raises MilenaError.

        With `first` it begins with what follows that attempt.
        """
        retries, clock = self.retries, self.clock
        timeout = retries.timeout if timeout is None else checked_timeout(timeout)
        now = clock.now()
        deadline = now + timeout
        remaining = timeout
        attempts: Attempts | None = None
        error: MilenaError | None = None
        if first is not None:
            deadline, error = first.began + timeout, first.error
        elif turn := retries.pace.wait(now, timeout):
            clock.sleep(turn)
            remaining = max(deadline - clock.now(), 0.001)
        while True:
            if error is None:
                try:
                    response = self.transport.call(operation.method, operation.request, remaining)
                except MilenaError as raised:
                    error = raised
                else:
                    retries.budget.succeeded()
                    return operation.read(response)
            if attempts is None:
                attempts = retries.attempts(operation, deadline)
            delay = attempts.next_delay(error, clock.now())
            if delay is None:
                raise failure(operation, attempts, timeout) from None
            clock.sleep(delay)
            remaining = max(deadline - clock.now(), 0.001)
            error = None


class AsyncCaller:
    """Runs operations for coroutines of one event loop."""

    __slots__ = ("clock", "retries", "transport")

    def __init__(self, transport: AsyncTransport, retries: Retries, clock: Clock) -> None:
        self.transport = transport
        self.retries = retries
        self.clock = clock

    async def run(self, operation: Operation[A], timeout: float | None = None, first: Failed | None = None) -> A:
        """As `Caller.run`."""
        retries, clock = self.retries, self.clock
        timeout = retries.timeout if timeout is None else checked_timeout(timeout)
        now = clock.now()
        deadline = now + timeout
        remaining = timeout
        attempts: Attempts | None = None
        error: MilenaError | None = None
        if first is not None:
            deadline, error = first.began + timeout, first.error
        elif turn := retries.pace.wait(now, timeout):
            await clock.sleep(turn)
            remaining = max(deadline - clock.now(), 0.001)
        while True:
            if error is None:
                try:
                    response = await self.transport.call(operation.method, operation.request, remaining)
                except MilenaError as raised:
                    error = raised
                else:
                    retries.budget.succeeded()
                    return operation.read(response)
            if attempts is None:
                attempts = retries.attempts(operation, deadline)
            delay = attempts.next_delay(error, clock.now())
            if delay is None:
                raise failure(operation, attempts, timeout) from None
            await clock.sleep(delay)
            remaining = max(deadline - clock.now(), 0.001)
            error = None
