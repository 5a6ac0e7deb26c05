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
from milena_common.api.errors import DeadlineExceeded

# Changes that begin in one step of the event loop: a few milliseconds of work.
AT_ONCE = 256


def write_all(context: Context, writes: Iterable[Change], reply: Any) -> Any:
    """Return `reply` once every change has been acknowledged, or an awaitable of it.

    Raises the first error; other changes may have been made then. Awaiting raises DeadlineExceeded too, if not all
    could begin within the time that a command has.
    """
    remaining = iter(writes)
    begun = _begin(context, remaining, context.timeout)
    pending = [each for each in begun if not isinstance(each, Ack)]
    return reply if not pending and len(begun) < AT_ONCE else _wait(context, pending, remaining, reply)


def _begin(context: Context, remaining: Iterator[Change], timeout: float) -> list[Ack | asyncio.Future[Ack]]:
    """Begin the next part of the changes."""
    return [context.node.writes.begin(change, None, timeout) for change in islice(remaining, AT_ONCE)]


async def _wait(
    context: Context, pending: list[asyncio.Future[Ack]], remaining: Iterator[Change], reply: Any
) -> Any:
    until = context.clock.now() + context.timeout
    while True:
        for result in await asyncio.gather(*pending, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        await asyncio.sleep(0)
        timeout = until - context.clock.now()
        if timeout <= 0:
            raise DeadlineExceeded(f"not all keys were written within {context.timeout:g} s; some may have been")
        begun = _begin(context, remaining, timeout)
        if not begun:
            return reply
        pending = [each for each in begun if not isinstance(each, Ack)]
