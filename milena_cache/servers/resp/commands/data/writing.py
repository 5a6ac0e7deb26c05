"""Coordination. How commands change many keys: all writes are begun before any is waited for.

A command of very many keys begins them in parts, so that the node stays there for others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from milena_cache.objects.write_request import Ack, Change
from milena_cache.servers.resp.state.context import Context
from milena_common.api.errors import DeadlineExceeded

# Changes that are begun before others have their turn: a few milliseconds of work.
AT_ONCE = 256


def write_all(context: Context, changes: Iterable[Change], answer: Any) -> Any:
    """`answer`, or something to await that gives it, once every change has been acknowledged.

    The first error that there was is raised, and then some of them may have been made. Awaiting raises
    DeadlineExceeded as well if not all could be begun within the time that a command has.
    """
    left = iter(changes)
    begun = _begin(context, left, context.timeout)
    waiting = [each for each in begun if not isinstance(each, Ack)]
    return answer if not waiting and len(begun) < AT_ONCE else _wait(context, waiting, left, answer)


def _begin(context: Context, left: Iterator[Change], timeout: float) -> list[Ack | asyncio.Future[Ack]]:
    """Begin the next part of the changes."""
    return [context.node.writes.begin(change, None, timeout) for change in islice(left, AT_ONCE)]


async def _wait(context: Context, waiting: list[asyncio.Future[Ack]], left: Iterator[Change], answer: Any) -> Any:
    until = context.clock.now() + context.timeout
    while True:
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        await asyncio.sleep(0)
        remaining = until - context.clock.now()
        if remaining <= 0:
            raise DeadlineExceeded(f"not all keys were written within {context.timeout:g} s; some may have been")
        begun = _begin(context, left, remaining)
        if not begun:
            return answer
        waiting = [each for each in begun if not isinstance(each, Ack)]
