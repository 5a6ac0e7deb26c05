"""Coordination. Writes of many keys by one command: all writes of a part begin before any is waited for.

So they share the journal's commit, rather than wait for one each. A command on very many keys begins its writes in
parts, between which the event loop runs other work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from milena_cache.objects.write_request import Ack, Change
from milena_cache.servers.resp.state.context import Context
from milena_cache.writes.batch import WriteBatch
from milena_common.api.errors import DeadlineExceeded

# Changes that begin in one step of the event loop: a few milliseconds of work.
AT_ONCE = 256


def write_all(context: Context, writes: Iterable[Change], reply: Any) -> Any:
    """Return `reply` once every change has been acknowledged, or an awaitable of it.

    Raises the first error; other changes may have been made then. Awaiting raises DeadlineExceeded too, if not all
    could begin within the time that a command has.
    """
    remaining = iter(writes)
    part = _Part(context, remaining, context.timeout)
    if part.is_done:
        part.raise_error()
        if part.number < AT_ONCE:
            return reply
    return _wait(context, part, remaining, reply)


class _Part:
    """Changes that begin together: a batch, and those that have to wait for their turn.

    number: how many
    """

    def __init__(self, context: Context, remaining: Iterator[Change], timeout: float) -> None:
        """Begin the next AT_ONCE changes."""
        writes = context.node.writes
        self._done = asyncio.Event()
        self._batch = WriteBatch(writes, self._done.set)
        self._others: list[asyncio.Future[Ack]] = []
        self.number = 0
        for change in islice(remaining, AT_ONCE):
            self.number += 1
            # Since the command looked at the ring, S3 may have been read.
            writes.check_owner(change)
            if not self._batch.add(change, None, timeout) and not isinstance(
                begun := writes.begin(change, None, timeout), Ack
            ):
                self._others.append(begun)
        if self._batch.seal():
            self._done.set()

    @property
    def is_done(self) -> bool:
        """True if no change is in flight."""
        return self._done.is_set() and not self._others

    async def wait(self) -> None:
        """Return when no change is in flight. Raises the first error."""
        await self._done.wait()
        results = await asyncio.gather(*self._others, return_exceptions=True)
        self.raise_error()
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def raise_error(self) -> None:
        """Raise the first error of the batch."""
        for result in self._batch.results:
            if isinstance(result, BaseException):
                raise result


async def _wait(context: Context, part: _Part, remaining: Iterator[Change], reply: Any) -> Any:
    until = context.clock.now() + context.timeout
    while True:
        await part.wait()
        await asyncio.sleep(0)
        timeout = until - context.clock.now()
        if timeout <= 0:
            raise DeadlineExceeded(f"not all keys were written within {context.timeout:g} s; some may have been")
        part = _Part(context, remaining, timeout)
        if not part.number:
            return reply
