"""Coordination. Runs a batch in the calling thread, without further threads.

Calls through the router are started without waiting, and their replies are taken from a queue as they come. With
direct access a whole window is sent to all owners before any reply is waited for. Which calls to send, and when, is
decided by `core.batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from google.protobuf.message import Message

from milena_client.core.batch import FirstAttempts, Window
from milena_client.core.calls import Call
from milena_client.core.operations import Operation
from milena_client.core.values import KeyT
from milena_client.sync.caller import Caller
from milena_client.sync.direct import DirectTransport
from milena_common.api.errors import MilenaError

A = TypeVar("A")

# Bound of one wait: Ctrl-C that comes just before a thread begins to wait is handled when the wait ends.
SIGNAL_SECONDS = 1.0


def run_batch(
    caller: Caller,
    keys: Sequence[KeyT],
    build: Callable[[KeyT], Operation[A]],
    timeout: float | None,
    first: FirstAttempts[KeyT, A] | None = None,
) -> dict[KeyT, A]:
    """Return the results of the operations that `build` makes of `keys`, by key, and those in `first`.

    Each operation has `timeout` seconds (None: the client's) from its own begin. Raises BatchError, after all have
    ended, if some failed.
    """
    clock, transport = caller.clock, caller.transport
    direct = transport if isinstance(transport, DirectTransport) else None
    window = Window(iter(keys), build, caller.retries, timeout, first or FirstAttempts())
    started: dict[Future[Message], Call[Any]] = {}
    finished: SimpleQueue[Future[Message]] = SimpleQueue()
    try:
        while True:
            due = window.due_calls(clock.now())
            rest = due if direct is None else _exchange(direct, window, due, clock.now)
            for call in rest:
                operation = call.operation
                future = transport.start(operation.method, operation.request, call.remaining(clock.now()))
                started[future] = call
                future.add_done_callback(finished.put)
            if len(rest) < len(due):
                continue  # some calls have ended already, so the window has room again
            pause = window.seconds_until_due(clock.now())
            if started:
                try:
                    future = finished.get(timeout=SIGNAL_SECONDS if pause is None else min(pause, SIGNAL_SECONDS))
                except Empty:
                    continue
                _finish(window, started.pop(future), future, clock.now)
            elif pause is not None:
                clock.sleep(pause)
            else:
                return window.outcomes.checked_results()
    finally:
        for future in started:  # only when interrupted
            future.cancel()


def _exchange(
    direct: DirectTransport, window: Window[KeyT, A], calls: Sequence[Call[A]], now: Callable[[], float]
) -> list[Call[A]]:
    """Make `calls` all at once, straight to the owners; return those that have to go through the router."""
    began = now()
    replies = direct.call_many(
        [(call.operation.method, call.operation.request, call.remaining(began)) for call in calls]
    )
    rest: list[Call[A]] = []
    for call, reply in zip(calls, replies, strict=True):
        if reply is None:
            rest.append(call)
        elif isinstance(reply, MilenaError):
            window.fail_call(call, reply, now())
        else:
            window.end_call(call, reply)
    return rest


def _finish(window: Window[KeyT, A], call: Call[A], future: Future[Message], now: Callable[[], float]) -> None:
    try:
        response = future.result()
    except MilenaError as error:
        window.fail_call(call, error, now())
    else:
        window.end_call(call, response)
