"""Coordination. How commands change many keys: all writes are begun before any is waited for.

A command of very many keys begins them in parts, so that the node stays there for others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from milena_cache.change import Ack, Change
from milena_cache.doors.redis.context import Context

AT_ONCE = 1024


def write_all(context: Context, changes: Iterable[Change], answer: Any) -> Any:
    """`answer`, or something to await that gives it, once every change has been acknowledged.

    The first error that there was is raised, and then some of them may have been made.
    """
    left = iter(changes)
    waiting = _begin(context, left)
    return _wait(context, waiting, left, answer) if waiting else answer


def _begin(context: Context, left: Iterator[Change]) -> list[asyncio.Future[Ack]]:
    """Begin changes up to a part in which some have to wait, and return those."""
    while part := [*islice(left, AT_ONCE)]:
        begun = [context.node.writes.begin(change, None, context.timeout) for change in part]
        waiting = [each for each in begun if not isinstance(each, Ack)]
        if waiting:
            return waiting
    return []


async def _wait(context: Context, waiting: list[asyncio.Future[Ack]], left: Iterator[Change], answer: Any) -> Any:
    while waiting:
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        waiting = _begin(context, left)
    return answer
