"""Pure. A batch of operations: which calls may be sent now, and the result of each key.

`Window` decides, with time as an argument; `milena_client.sync.batch` sends the calls that it returns. The async
batch (`milena_client.aio.batch`) has one task for each place in the window, and needs only `Outcomes`.

A call that waits for its next attempt keeps its place in the window. So when the router limits the rate or a node
is lost, few new calls begin, and each of them still has its whole time: a batch goes as fast as the cluster lets
it, rather than failing for most of its keys. At most BATCH_WINDOW calls are in flight or wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from milena_client.core.calls import Call, FailedAttempt, Retries, failed_attempt
from milena_client.core.limits import BATCH_WINDOW
from milena_client.core.operations import Operation
from milena_client.core.values import Key, KeyT, checked_timeout
from milena_common.api.errors import BatchError, MilenaError

A = TypeVar("A")

_PLAIN = {bytes, type(None)}
_VALUES = {bytes}


class Outcomes(Generic[KeyT, A]):
    """The results and failures of a batch, by key as the caller spelled it."""

    def __init__(self, results: dict[KeyT, A]) -> None:
        self.results = results
        self._errors: dict[Key, MilenaError] = {}

    def add_failure(self, key: KeyT, error: MilenaError) -> None:
        self._errors[key] = error

    def checked_results(self) -> dict[KeyT, A]:
        """Return the results. Raises BatchError if anything failed."""
        if self._errors:
            raise BatchError(self._errors, self.results)
        return self.results


@dataclass(slots=True)
class FirstAttempts(Generic[KeyT, A]):
    """The results of the fast path for keys of a batch, before the batch is run.

    - `results`: by key, for the keys that need no call.
    - `failed`: by key, the first attempts that failed.
    - `all_exist`: True if `results` has a value for every key of `add`.
    """

    results: dict[KeyT, A] = field(default_factory=dict)
    failed: dict[KeyT, FailedAttempt] = field(default_factory=dict)
    all_exist: bool = False

    def add(self, keys: list[KeyT], found: list[Any], began: float) -> list[KeyT]:
        """Add the results `found` for `keys`, requested at `began`; return the keys that still need a call.

        An element of `found` is a result, or the exception with which the attempt failed.
        """
        self.results = dict(zip(keys, found, strict=True))
        kinds = set(map(type, found))
        self.all_exist = kinds == _VALUES
        if kinds <= _PLAIN:
            return []
        rest = [key for key, result in self.results.items() if isinstance(result, Exception)]
        for key in rest:
            first = failed_attempt(began, self.results.pop(key))
            if first is not None:
                self.failed[key] = first
        return rest


class Window(Generic[KeyT, A]):
    """The calls of one batch that have begun and not ended, and the keys of those that have not begun.

    Each call has `timeout` seconds (None: those of `retries`) from its own begin. Operations are built as the
    window comes to their keys, so that a batch of large values is not held twice. Raises InvalidRequest for a
    timeout that is not allowed.
    """

    def __init__(
        self,
        keys: Iterator[KeyT],
        build: Callable[[KeyT], Operation[A]],
        retries: Retries,
        timeout: float | None,
        first: FirstAttempts[KeyT, A],
    ) -> None:
        if timeout is not None:
            checked_timeout(timeout)
        self.outcomes: Outcomes[KeyT, A] = Outcomes(first.results)
        self._keys = keys
        self._build = build
        self._retries = retries
        self._timeout = timeout
        self._failed = first.failed
        self._in_flight: dict[Call[A], KeyT] = {}
        self._waiting: list[tuple[float, int, KeyT, Call[A]]] = []  # heap by the time of the next attempt
        self._order = 0

    def due_calls(self, now: float) -> list[Call[A]]:
        """Return the calls to send at `now`: attempts that are due, then new calls while there is room.

        `end_call` or `fail_call` must follow for each of them.
        """
        due: list[Call[A]] = []
        while self._waiting and self._waiting[0][0] <= now:
            _, _, key, call = heappop(self._waiting)
            self._in_flight[call] = key
            due.append(call)
        while len(self._in_flight) + len(self._waiting) < BATCH_WINDOW:
            following = next(self._keys, None)
            if following is None:
                break
            key = following
            try:
                call = Call(self._build(key), self._retries, self._timeout, now, self._failed.get(key))
            except MilenaError as error:
                self.outcomes.add_failure(key, error)
                continue
            if call.pause:
                self._wait(key, call, now)
            else:
                self._in_flight[call] = key
                due.append(call)
        return due

    def seconds_until_due(self, now: float) -> float | None:
        """Return the seconds until the next attempt is due; None: no call waits for one."""
        return max(0.0, self._waiting[0][0] - now) if self._waiting else None

    def end_call(self, call: Call[A], response: Message) -> None:
        """End `call`, which was in flight, with `response`."""
        key = self._in_flight.pop(call)
        try:
            self.outcomes.results[key] = call.succeeded(response)
        except MilenaError as error:
            self.outcomes.add_failure(key, error)

    def fail_call(self, call: Call[A], error: MilenaError, now: float) -> None:
        """Let `call`, which was in flight and failed with `error`, wait for its next attempt, or end it."""
        key = self._in_flight.pop(call)
        try:
            call.attempt_failed(error, now)
        except MilenaError as final:
            self.outcomes.add_failure(key, final)
        else:
            self._wait(key, call, now)

    def _wait(self, key: KeyT, call: Call[A], now: float) -> None:
        # The number keeps the order of calls that are due at the same time; calls and keys have none.
        self._order += 1
        heappush(self._waiting, (now + call.pause, self._order, key, call))
