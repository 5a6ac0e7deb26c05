"""Coordination. Many operations at once, with a bounded window of them in hand.

An operation that waits for its next attempt keeps its place in the window. So when the router limits the rate
or a node is lost, few new ones begin, and each of them still has its whole time: a batch goes as fast as the
cluster lets it, rather than failing for most of its keys.

The sync batch needs no threads: calls are started without waiting, and their answers are taken from a queue. Where
there is a way straight to the nodes, a whole window is sent to all of them before any answer is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from heapq import heappop, heappush
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from milena_client.core.calls import AsyncCaller, Caller, Failed, failure, first_attempt
from milena_client.core.operations import Operation
from milena_client.core.retry import Attempts
from milena_client.core.values import Key, KeyT, checked_timeout
from milena_common.api.errors import BatchError, MilenaError

A = TypeVar("A")

WINDOW = 64
# Ctrl-C that comes just before a thread begins to wait is heeded when the wait ends.
SIGNAL_SECONDS = 1.0


_PLAIN = {bytes, type(None)}

Call = tuple[str, Message, float]


class Exchange(Protocol):
    """A way to make many calls at once."""

    def exchange(self, calls: Sequence[Call]) -> list[Message | MilenaError | None]:
        """The answer to each of `calls` (method, request, timeout in seconds); None: it cannot go this way."""


class Outcomes(Generic[KeyT, A]):
    """The answers and the failures of a batch, by key as the caller spelled it."""

    def __init__(self, answers: dict[KeyT, A]) -> None:
        self.answers = answers
        self._errors: dict[Key, MilenaError] = {}

    def failed(self, key: KeyT, error: MilenaError) -> None:
        self._errors[key] = error

    def result(self) -> dict[KeyT, A]:
        """Raises BatchError if anything failed."""
        if self._errors:
            raise BatchError(self._errors, self.answers)
        return self.answers


@dataclass(slots=True)
class Begun(Generic[KeyT, A]):
    """What came of a batch before it is run: answers to some keys, and first attempts that failed."""

    answers: dict[KeyT, A] = field(default_factory=dict)
    failed: dict[KeyT, Failed] = field(default_factory=dict)

    def take(self, keys: list[KeyT], found: list[Any], began: float) -> list[KeyT]:
        """Note what was `found` for each of `keys`, asked at `began`; those that are still to be asked for.

        Found is an answer, or an exception: what a first attempt came to.
        """
        self.answers = dict(zip(keys, found, strict=True))
        if set(map(type, found)) <= _PLAIN:
            return []
        rest = [key for key, answer in self.answers.items() if isinstance(answer, Exception)]
        for key in rest:
            first = first_attempt(began, self.answers.pop(key))
            if first is not None:
                self.failed[key] = first
        return rest


class _Job(Generic[KeyT, A]):
    """One operation of a batch, from its start to its answer."""

    __slots__ = ("attempts", "deadline", "future", "key", "operation")

    def __init__(self, key: KeyT, operation: Operation[A], deadline: float) -> None:
        self.key = key
        self.operation = operation
        self.deadline = deadline
        self.attempts: Attempts | None = None
        self.future: Future[Message] | None = None


class _Batch(Generic[KeyT, A]):
    """A batch as it runs in the caller's thread."""

    def __init__(
        self,
        caller: Caller,
        build: Callable[[KeyT], Operation[A]],
        timeout: float | None,
        begun: Begun[KeyT, A],
        direct: Exchange | None,
    ) -> None:
        self._caller = caller
        self._build = build
        self._direct = direct
        self._failed = begun.failed
        self._timeout = caller.retries.timeout if timeout is None else checked_timeout(timeout)
        self._finished: SimpleQueue[_Job[KeyT, A]] = SimpleQueue()
        self._flying: set[_Job[KeyT, A]] = set()
        self._waiting: list[tuple[float, int, _Job[KeyT, A]]] = []  # heap by the time of the next attempt
        self._order = 0
        self.outcomes: Outcomes[KeyT, A] = Outcomes(begun.answers)

    def run(self, keys: Iterator[KeyT]) -> None:
        clock = self._caller.clock
        try:
            while True:
                if self._open(keys):
                    continue
                if self._flying:
                    self._take_finished()
                elif self._waiting:
                    clock.sleep(max(0.0, self._waiting[0][0] - clock.now()))
                else:
                    return
        finally:
            for job in self._flying:  # only when interrupted
                if job.future is not None:
                    job.future.cancel()

    def _open(self, keys: Iterator[KeyT]) -> bool:
        """Start what may start now: attempts that are due, then new operations while the window has room.

        True: there is room again, since some have ended at once.
        """
        due: list[_Job[KeyT, A]] = []
        while self._waiting and self._waiting[0][0] <= self._caller.clock.now():
            due.append(heappop(self._waiting)[2])
        while len(self._flying) + len(self._waiting) + len(due) < WINDOW:
            key = next(keys, None)
            if key is None:
                break
            try:
                operation = self._build(key)
            except MilenaError as error:
                self.outcomes.failed(key, error)
            else:
                self._begin(_Job(key, operation, self._caller.clock.now() + self._timeout), due)
        flying = self._exchange(due) if self._direct is not None else due
        for job in flying:
            self._start(job)
        return len(flying) < len(due)

    def _begin(self, job: _Job[KeyT, A], due: list[_Job[KeyT, A]]) -> None:
        """Append `job` to `due`, unless it has failed already or has to wait for its turn."""
        first = self._failed.get(job.key)
        if first is not None:
            job.deadline = first.began + self._timeout
            self._retry(job, first.error)
        elif turn := self._caller.retries.pace.wait(self._caller.clock.now(), self._timeout):
            self._wait(job, turn)
        else:
            due.append(job)

    def _exchange(self, jobs: list[_Job[KeyT, A]]) -> list[_Job[KeyT, A]]:
        """Make the calls of `jobs` all at once; those that cannot be made so are returned."""
        assert self._direct is not None
        now = self._caller.clock.now()
        calls = [(job.operation.method, job.operation.request, max(job.deadline - now, 0.001)) for job in jobs]
        others: list[_Job[KeyT, A]] = []
        for job, answer in zip(jobs, self._direct.exchange(calls), strict=True):
            if answer is None:
                others.append(job)
            elif isinstance(answer, MilenaError):
                self._retry(job, answer)
            else:
                self._answered(job, answer)
        return others

    def _answered(self, job: _Job[KeyT, A], answer: Message) -> None:
        try:
            self.outcomes.answers[job.key] = job.operation.read(answer)
            self._caller.retries.budget.succeeded()
        except MilenaError as error:
            self._retry(job, error)

    def _start(self, job: _Job[KeyT, A]) -> None:
        remaining = max(job.deadline - self._caller.clock.now(), 0.001)
        self._flying.add(job)
        future = job.future = self._caller.transport.start(job.operation.method, job.operation.request, remaining)
        future.add_done_callback(lambda _: self._finished.put(job))

    def _take_finished(self) -> None:
        """Wait for an answer, at most until the next attempt is due or a signal must be looked for."""
        due = self._waiting[0][0] - self._caller.clock.now() if self._waiting else SIGNAL_SECONDS
        timeout = min(max(0.0, due), SIGNAL_SECONDS)
        try:
            job = self._finished.get(timeout=timeout)
        except Empty:
            return
        self._flying.discard(job)
        assert job.future is not None
        try:
            answer = job.future.result()
        except MilenaError as error:
            self._retry(job, error)
        else:
            self._answered(job, answer)

    def _retry(self, job: _Job[KeyT, A], error: MilenaError) -> None:
        if job.attempts is None:
            job.attempts = self._caller.retries.attempts(job.operation, job.deadline)
        delay = job.attempts.next_delay(error, self._caller.clock.now())
        if delay is None:
            self.outcomes.failed(job.key, failure(job.operation, job.attempts, self._timeout))
        else:
            self._wait(job, delay)

    def _wait(self, job: _Job[KeyT, A], seconds: float) -> None:
        self._order += 1
        heappush(self._waiting, (self._caller.clock.now() + seconds, self._order, job))


def run_batch(
    caller: Caller,
    keys: Sequence[KeyT],
    build: Callable[[KeyT], Operation[A]],
    timeout: float | None,
    begun: Begun[KeyT, A] | None = None,
    direct: Exchange | None = None,
) -> dict[KeyT, A]:
    """The answers by key, those in `begun` among them. `keys` are the others.

    Each operation has `timeout` seconds (None: the client's) from its own start. Operations are built as the window
    comes to them, so that a batch of large values is not held twice.
    Raises BatchError, after all have ended, if some failed.
    """
    batch = _Batch(caller, build, timeout, begun or Begun(), direct)
    batch.run(iter(keys))
    return batch.outcomes.result()


async def run_async_batch(
    caller: AsyncCaller,
    keys: Sequence[KeyT],
    build: Callable[[KeyT], Operation[A]],
    timeout: float | None,
    begun: Begun[KeyT, A] | None = None,
) -> dict[KeyT, A]:
    """As `run_batch`, in an event loop."""
    if timeout is not None:
        checked_timeout(timeout)
    outcomes: Outcomes[KeyT, A] = Outcomes(begun.answers if begun else {})
    failed = begun.failed if begun else {}
    remaining = iter(keys)

    async def work() -> None:
        for key in remaining:
            try:
                outcomes.answers[key] = await caller.run(build(key), timeout, failed.get(key))
            except MilenaError as error:
                outcomes.failed(key, error)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(WINDOW, len(keys))):
                group.create_task(work())
    except ExceptionGroup as errors:  # what is wrong with an argument, as `run_batch` raises it
        raise errors.exceptions[0] from None
    return outcomes.result()
