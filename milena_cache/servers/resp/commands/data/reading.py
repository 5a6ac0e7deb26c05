"""Coordination. How commands look at keys: what is in memory is told at once, and only the rest is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from milena_cache.memory.lru import Entry
from milena_cache.objects.names import Object
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.errors import DeadlineExceeded

T = TypeVar("T")

# An object, and the epoch since which this node owns it.
Place = tuple[Object, int]

# How many keys of one command are waited for at the same time.
AT_ONCE = 128
# Keys of one command that are looked at before others have their turn: about 1 ms of work.
MAX_KEYS_AT_ONCE = 512


def look(context: Context, session: Session, key: bytes, convert: Callable[[Entry, int], Any]) -> Any:
    """What `convert` makes of a key's entry and of its size in bytes; if S3 has to be asked, something to await.

    The value is not fetched for it: an entry has an empty one then. Raises as `Context.place` does.
    """
    place = _place(context, session, key)
    reply = context.node.lookup(*place)
    return _look(context, place, convert) if reply is None else convert(reply.entry, reply.entry.size)


async def _look(context: Context, place: Place, convert: Callable[[Entry, int], Any]) -> Any:
    target, owned_since = place
    reply, size = await context.node.exists(target, context.timeout, owned_since)
    return convert(reply.entry, size)


def read(context: Context, session: Session, key: bytes, convert: Callable[[Entry], Any]) -> Any:
    """As `look`, with the value."""
    place = _place(context, session, key)
    reply = context.node.lookup(*place)
    return _read(context, place, convert) if reply is None else convert(reply.entry)


async def _read(context: Context, place: Place, convert: Callable[[Entry], Any]) -> Any:
    target, owned_since = place
    return convert((await context.node.get(target, context.timeout, owned_since)).entry)


def _place(context: Context, session: Session, key: bytes) -> Place:
    place = context.place(key)
    if session.tracking:
        context.tracking.track(session.id, place[0].cache_key)
    return place


def places(context: Context, session: Session, keys: Sequence[bytes], *, reading: bool = True) -> list[Place]:
    """Where all of them are; so a command is refused as a whole before anything of it is done."""
    if reading:
        return [_place(context, session, key) for key in keys]
    return [context.place(key) for key in keys]


async def place_all(context: Context, session: Session, keys: Sequence[bytes], *, reading: bool) -> list[Place]:
    """As `places`, for very many keys: others have their turn meanwhile."""
    targets: list[Place] = []
    for start in range(0, len(keys), MAX_KEYS_AT_ONCE):
        targets += places(context, session, keys[start : start + MAX_KEYS_AT_ONCE], reading=reading)
        await asyncio.sleep(0)
    return targets


def exist(
    context: Context, targets: Sequence[Place], *, counted: bool = True
) -> list[bool] | Coroutine[Any, Any, list[bool]]:
    """Which of them exist. `counted`: this is a read, and in the hit ratio."""
    node = context.node if counted else context.node.uncounted

    def known(place: Place) -> bool | None:
        reply = node.lookup(*place)
        return None if reply is None else reply.entry.value is not None

    async def fetch(place: Place) -> bool:
        reply, _ = await node.exists(place[0], context.timeout, place[1])
        return reply.entry.value is not None

    return for_each(targets, known, fetch, context.timeout)


def for_each(
    targets: Sequence[Place],
    known: Callable[[Place], T | None],
    fetch: Callable[[Place], Coroutine[Any, Any, T]],
    timeout: float,
) -> list[T] | Coroutine[Any, Any, list[T]]:
    """What is `known` of each, and what there is to `fetch` where that is None. Only the second has to be awaited,
    and very many.

    The first error ends it. Awaiting raises DeadlineExceeded after `timeout` seconds, for all of them together.
    """
    if len(targets) > MAX_KEYS_AT_ONCE:
        return _within(timeout, _in_parts(targets, known, fetch))
    results = [known(place) for place in targets]
    unknown = [number for number, result in enumerate(results) if result is None]
    if not unknown:
        return [result for result in results if result is not None]
    return _within(timeout, _fill_in(targets, results, unknown, fetch))


async def _within(timeout: float, work: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(timeout):
            return await work
    except TimeoutError as error:
        if isinstance(error, DeadlineExceeded):
            raise
        raise DeadlineExceeded(f"not all keys were read within {timeout:g} s; ask for fewer at once") from None


async def _in_parts(
    targets: Sequence[Place],
    known: Callable[[Place], T | None],
    fetch: Callable[[Place], Coroutine[Any, Any, T]],
) -> list[T]:
    results: list[T | None] = []
    for start in range(0, len(targets), MAX_KEYS_AT_ONCE):
        results += map(known, targets[start : start + MAX_KEYS_AT_ONCE])
        await asyncio.sleep(0)
    unknown = [number for number, result in enumerate(results) if result is None]
    return await _fill_in(targets, results, unknown, fetch)


async def _fill_in(
    targets: Sequence[Place],
    results: list[T | None],
    unknown: list[int],
    fetch: Callable[[Place], Coroutine[Any, Any, T]],
) -> list[T]:
    remaining = iter(unknown)

    async def work() -> None:
        for number in remaining:
            results[number] = await fetch(targets[number])

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(unknown))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [result for result in results if result is not None]
