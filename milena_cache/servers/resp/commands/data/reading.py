"""Coordination. Reads of keys by commands: from memory at once, and only the rest by waiting for S3.

A function here returns its result itself if all is in memory, else an awaitable of it: a hit costs no coroutine and
no task. A key that is read is tracked before it is looked up, see `Tracking`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from milena_cache.objects.entry import Entry
from milena_cache.reads.part_reads import Part, RangeOf
from milena_cache.reads.reader import FENCED
from milena_cache.reads.reader import Reply as ReadReply
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_cache.service.requests import Place
from milena_common.api.errors import DeadlineExceeded

T = TypeVar("T")

# Keys of one command that wait for S3 at the same time.
AT_ONCE = 128
# Keys of one command that are looked up in one step of the event loop: about 1 ms of work.
MAX_KEYS_AT_ONCE = 512


def look(context: Context, session: Session, key: bytes, convert: Callable[[Entry, int], Any]) -> Any:
    """Return `convert(entry, size in bytes)` for a key, or an awaitable of it if it has to be read from S3.

    For commands that need no value: S3 gets a HEAD, and the entry's value is then empty. Raises as `Context.place`
    does.
    """
    target, owned_since = _place(context, session, key)
    found = context.node.read_metadata(target, context.timeout, owned_since)
    if not isinstance(found, tuple):
        return _look(found, convert)
    reply, size = found
    return convert(reply.entry, size)


async def _look(looking: Awaitable[tuple[ReadReply, int]], convert: Callable[[Entry, int], Any]) -> Any:
    reply, size = await looking
    return convert(reply.entry, size)


def read(context: Context, session: Session, key: bytes, convert: Callable[[Entry], Any]) -> Any:
    """Return `convert(entry)` for a key, or an awaitable of it if S3 has to be read. Raises as `look` does."""
    target, owned_since = _place(context, session, key)
    reply = context.node.read(target, context.timeout, owned_since)
    return convert(reply.entry) if isinstance(reply, ReadReply) else _read(reply, convert)


async def _read(reading: Awaitable[ReadReply], convert: Callable[[Entry], Any]) -> Any:
    return convert((await reading).entry)


def read_part(context: Context, session: Session, key: bytes, range_of: RangeOf) -> Any:
    """Return the bytes that `range_of` selects of a key's value, b"" if there is none, or an awaitable of them.

    Raises as `look` does.
    """
    part = context.requests.part(_place(context, session, key), range_of, context.timeout)
    return part.value if isinstance(part, Part) else _part(part)


async def _part(reading: Awaitable[Part]) -> bytes:
    return (await reading).value


def _place(context: Context, session: Session, key: bytes) -> Place:
    place = context.place_to_read(key)
    # What is served behind a closed fence is not tracked: this node does not learn of its changes.
    if session.tracking and place[1] != FENCED:
        context.tracking.track(session.id, place[0].cache_key)
    return place


def places(context: Context, session: Session, keys: Sequence[bytes], *, reading: bool = True) -> list[Place]:
    """Return the places of all keys, so that a command is rejected as a whole before anything of it is done.

    `reading`: the keys are tracked. Raises as `Context.place` does.
    """
    if reading:
        return [_place(context, session, key) for key in keys]
    return [context.place(key) for key in keys]


async def place_all(context: Context, session: Session, keys: Sequence[bytes], *, reading: bool) -> list[Place]:
    """Return what `places` does, for very many keys, in several steps of the event loop."""
    targets: list[Place] = []
    for start in range(0, len(keys), MAX_KEYS_AT_ONCE):
        targets += places(context, session, keys[start : start + MAX_KEYS_AT_ONCE], reading=reading)
        await asyncio.sleep(0)
    return targets


def entries_of(
    context: Context, session: Session, keys: Sequence[bytes]
) -> list[Entry] | Coroutine[Any, Any, list[Entry]]:
    """Return the objects of several keys, or an awaitable of them. Raises as `look` does."""

    def known(place: Place) -> Entry | None:
        reply = context.node.lookup(*place)
        return None if reply is None else reply.entry

    async def fetch(place: Place) -> Entry:
        return (await context.node.get(place[0], context.timeout, place[1])).entry

    return for_each(places(context, session, keys), known, fetch, context.timeout)


def exist(
    context: Context, targets: Sequence[Place], *, counted: bool = True
) -> list[bool] | Coroutine[Any, Any, list[bool]]:
    """Return for each of `targets` True if it exists, or an awaitable of that. `counted`: in the hit ratio."""
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
    """Return for each of `targets` what `known` returns, or if that is None what `fetch` does.

    Returns an awaitable of it if anything must be fetched, or if there are very many. The first error ends it.
    Awaiting raises DeadlineExceeded after `timeout` seconds, which are for all of them together.
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
        raise DeadlineExceeded(f"not all keys were read within {timeout:g} s; request fewer at once") from None


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
