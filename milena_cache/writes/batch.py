"""Coordination. Writes that begin together, and whose callers are notified together: one callback for all of them.

A write by itself has a future, with a callback of its own, and a place of its own wherever it is waited for. For
writes that came together, share a commit and are replied to together, that would be most of their cost.

Each write keeps its own result, also if others fail; and in the journal each has its own record, in the order in
which they were added. Whatever cannot begin at once is not taken: the caller begins it by itself, in its place in
the order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from milena_cache.objects.write_request import Ack, Change, NotDurable
from milena_cache.writes.writer import Writes
from milena_common.api.durability import BACK, Durability

Result = Ack | BaseException


class WriteBatch:
    """Writes that begin together: `add` them, then `seal`.

    results: the acknowledgement or the error of each write; None while it is in flight
    """

    __slots__ = ("_in_flight", "_on_done", "_sealed", "_writes", "results")

    def __init__(self, writes: Writes, on_done: Callable[[], None]) -> None:
        """`on_done` is called once, by the event loop, when no write is in flight; not if `seal` returns True."""
        self.results: list[Result | None] = []
        self._writes = writes
        self._on_done = on_done
        self._in_flight = 0
        self._sealed = False

    def add(self, change: Change, durability: Durability | None, timeout: float) -> bool:
        """Begin a write, of a slot that is this node's; False if it cannot begin at once, and is not taken.

        An error with which it ends at once is its result. `durability`: None for the node's class; `timeout`:
        seconds.
        """
        number = len(self.results)
        result: Result | bool
        try:
            receipt = _BatchReceipt(self, number, change, timeout)
            result = self._writes.begin_at_once(change, durability, receipt, timeout)
        except Exception as error:
            result = error
        if result is False:
            return False
        if result is True:
            self._in_flight += 1
            self.results.append(None)
        else:
            self.results.append(result)
        return True

    def seal(self) -> bool:
        """Add no more writes; return True if none is in flight, so that all results are there."""
        self._sealed = True
        return not self._in_flight

    def resolve(self, number: int, result: Result) -> None:
        """Set the result of the write with that number."""
        self.results[number] = result
        self._in_flight -= 1
        if not self._in_flight and self._sealed:
            # Not at once: the other writes of the commit are not dirty entries yet, and a reply must not be sent,
            # nor a command behind it begin, before they are.
            asyncio.get_running_loop().call_soon(self._on_done)

    def acknowledge(self, number: int, change: Change) -> None:
        """Set the result of a write that is durable."""
        self._writes.acknowledged[BACK] += 1
        self.resolve(number, Ack(BACK, change.etag, change.value))

    def continue_in_turn(self, number: int, change: Change, error: NotDurable, timeout: float) -> None:
        """Make a write in the class that is possible, since the journal did not take it."""
        task = self._writes.continue_in_turn(change, error, timeout)
        task.add_done_callback(lambda task: self._continued(number, task))

    def _continued(self, number: int, task: asyncio.Task[Ack]) -> None:
        if task.cancelled():
            self.resolve(number, asyncio.CancelledError())
        else:
            self.resolve(number, task.exception() or task.result())


class _BatchReceipt:
    """The receipt of one write of a batch."""

    __slots__ = ("_batch", "_change", "_done", "_number", "_timeout")

    def __init__(self, batch: WriteBatch, number: int, change: Change, timeout: float) -> None:
        self._batch = batch
        self._number = number
        self._change = change
        self._timeout = timeout
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, result: None, /) -> None:
        self._done = True
        self._batch.acknowledge(self._number, self._change)

    def set_exception(self, error: Exception, /) -> None:
        self._done = True
        if isinstance(error, NotDurable):
            # Not within the commit that has failed, whose other writes do not have their result yet.
            call_soon = asyncio.get_running_loop().call_soon
            call_soon(self._batch.continue_in_turn, self._number, self._change, error, self._timeout)
        else:
            self._batch.resolve(self._number, error)
