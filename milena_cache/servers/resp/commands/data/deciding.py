"""Coordination. Commands whose effect depends on the values of their keys: read, decide, write, nothing between.

What is decided is in `decisions`; how it is made atomic, in `ReadModifyWrite`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any

from milena_cache.objects.entry import Entry
from milena_cache.reads.read_modify_write import Decided, ReadModifyWrite
from milena_cache.servers.resp.commands.data.reading import entries_of
from milena_cache.servers.resp.decisions.timestamps import as_ms
from milena_cache.servers.resp.decisions.values import Decision, Values
from milena_cache.servers.resp.dispatch.command import ONE_KEY, Handler, KeyPositions, positions
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_cache.service.requests import Place
from milena_common.api.durability import Durability
from milena_common.cluster.slots import slot_of
from milena_common.resp.redis_replies import CommandError

# Keys that are written together, in one step of the event loop: some 20 ms of work.
MAX_TOGETHER = 1024


def handler_of(decide: Decision, keys: KeyPositions = ONE_KEY, *, counted: bool = False) -> Handler[Context]:
    """Return the handler of a command that `decide` decides. `counted`: its reads are in the hit ratio."""

    def handler(context: Context, session: Session, argv: list[bytes]) -> Any:
        return reply_of(decide_on(context, argv, keys, decide, counted=counted))

    return handler


def reader_of(decide: Decision, keys: KeyPositions = ONE_KEY) -> Handler[Context]:
    """Return the handler of a command that `decide` decides, and that changes nothing."""

    def handler(context: Context, session: Session, argv: list[bytes]) -> Any:
        named = positions(argv, keys)

        def convert(entries: list[Entry]) -> Any:
            found = {argv[at]: entry for at, entry in zip(named, entries, strict=True)}
            return decide(values_of(context, found), argv)

        entries = entries_of(context, session, [argv[at] for at in named])
        return convert(entries) if isinstance(entries, list) else _converted(entries, convert)

    return handler


async def _converted(entries: Awaitable[list[Entry]], convert: Any) -> Any:
    return convert(await entries)


def values_of(context: Context, found: dict[bytes, Entry]) -> Values:
    """Return objects that were read, for decisions."""
    return Values(found, as_ms(context.clock.wall()), context.config.max_value_bytes)


def decide_on(
    context: Context,
    argv: list[bytes],
    keys: KeyPositions,
    decide: Decision,
    *,
    counted: bool = False,
    timeout: float = 0.0,
    durability: Durability | None = None,
) -> Decided | Awaitable[Decided]:
    """Read the keys, and write what `decide` makes of them. Raises as `Context.place` and `ReadModifyWrite` do."""
    if keys is ONE_KEY:
        place = context.place(argv[1])
        key = place[0].cache_key
        places = {key: place}
        if key != argv[1]:
            argv = [argv[0], key, *argv[2:]]
    else:
        places, argv = named_by_cache_key(context, argv, keys)

    def decide_all(found: Any) -> Any:
        values = values_of(context, found)
        return decide(values, argv), values.changes()

    node = context.node if counted else context.node.uncounted
    return ReadModifyWrite(
        node, context.node.writes, context.clock, places, places, decide_all, timeout or context.timeout, durability
    ).carry_out()


def named_by_cache_key(
    context: Context, argv: list[bytes], keys: KeyPositions
) -> tuple[dict[bytes, Place], list[bytes]]:
    """Return the places of a command's keys by cache key, and its arguments with those for keys.

    Raises CommandError if they are too many to be written together.
    """
    named = positions(argv, keys)
    if len(named) > MAX_TOGETHER:
        raise CommandError(
            f"ERR the command has {len(named)} keys; at most {MAX_TOGETHER} can be changed as one; nothing was done"
        )
    places: dict[bytes, Place] = {}
    argv = list(argv)
    for at in named:
        place = context.place(argv[at])
        argv[at] = place[0].cache_key
        places[argv[at]] = place
    check_one_slot(context, places)
    return places, argv


def check_one_slot(context: Context, keys: Iterable[bytes]) -> None:
    """Raise CommandError for keys of several slots, unless this node owns all slots.

    Also on a connection that defers, where commands that are not atomic may have keys of several slots: slots may
    have different holders of copies, and move at different times.
    """
    if not context.ownership.single and len({slot_of(key) for key in keys}) > 1:
        raise CommandError("CROSSSLOT Keys in request don't hash to the same slot")


def reply_of(begun: Decided | Awaitable[Decided]) -> Any:
    """Return what was decided to be replied, or an awaitable of it."""
    return begun.reply if isinstance(begun, Decided) else _reply_of(begun)


async def _reply_of(begun: Awaitable[Decided]) -> Any:
    return (await begun).reply
