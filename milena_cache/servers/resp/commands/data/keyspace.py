"""Coordination. Commands on keys irrespective of their values: DEL, EXISTS, TYPE, DBSIZE, OBJECT and the like.

Those about all keys (DBSIZE, RANDOMKEY) are about the keys that this node has in memory: only S3 has the keys of
the bucket.
"""

from __future__ import annotations

from collections.abc import Awaitable
from itertools import islice
from typing import Any

from milena_cache.objects.entry import Entry
from milena_cache.objects.expiry import is_expired
from milena_cache.objects.write_request import Change
from milena_cache.servers.resp.commands.data.reading import (
    MAX_KEYS_AT_ONCE,
    exist,
    look,
    place_all,
    places,
    read,
)
from milena_cache.servers.resp.commands.data.writing import write_all
from milena_cache.servers.resp.decisions import keys as decisions
from milena_cache.servers.resp.dispatch.command import ALL_KEYS, KEY_OF_SUBCOMMAND, ONE_KEY
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_cache.service.requests import Place
from milena_common.cluster.slots import slot_of
from milena_common.resp.encoding import Simple, command
from milena_common.resp.redis_replies import CommandError

# Number of keys among which RANDOMKEY chooses.
_CHOICE = 1000

COMMANDS = CommandTable[Context](categories=("keyspace",))


@COMMANDS.command(
    "unlink",
    arity=-2,
    access="modify",
    keys=ALL_KEYS,
    operation="delete",
    flags=("fast",),
    since="4.0.0",
    complexity="O(N) where N is the number of keys.",
    summary="Deletes one or more keys.",
    decide=decisions.delete,
)
@COMMANDS.command(
    "del",
    arity=-2,
    access="modify",
    keys=ALL_KEYS,
    operation="delete",
    complexity="O(N) where N is the number of keys.",
    summary="Deletes one or more keys.",
    decide=decisions.delete,
)
def delete(context: Context, session: Session, argv: list[bytes]) -> Any:
    if len(argv) > MAX_KEYS_AT_ONCE:
        return _delete_many(context, session, argv[1:])
    targets = list(dict.fromkeys(places(context, session, argv[1:], reading=False)))
    there = exist(context, targets, counted=False)
    if isinstance(there, list):
        return _delete(context, targets, sum(there))
    return _delete_after(context, targets, there)


async def _delete_many(context: Context, session: Session, keys: list[bytes]) -> int:
    targets = list(dict.fromkeys(await place_all(context, session, keys, reading=False)))
    there = exist(context, targets, counted=False)
    reply = _delete(context, targets, sum(there if isinstance(there, list) else await there))
    return reply if isinstance(reply, int) else await reply


def _delete(context: Context, targets: list[Place], number: int) -> Any:
    """Delete all of `targets`, and return `number`, or an awaitable of it.

    Keys that do not exist are deleted too: their absence may have been found some seconds ago, and S3 may have the
    object by now.
    """
    return write_all(context, (Change(place, None, owned_since=since) for place, since in targets), number)


async def _delete_after(context: Context, targets: list[Place], there: Awaitable[list[bool]]) -> int:
    reply = _delete(context, targets, sum(await there))
    return reply if isinstance(reply, int) else await reply


@COMMANDS.command(
    "touch",
    arity=-2,
    access="read",
    keys=ALL_KEYS,
    operation="get",
    flags=("fast",),
    since="3.2.1",
    complexity="O(N) where N is the number of keys.",
    summary="Returns the number of existing keys out of those specified.",
    decide=decisions.exists,
)
@COMMANDS.command(
    "exists",
    arity=-2,
    access="read",
    keys=ALL_KEYS,
    operation="get",
    flags=("fast",),
    complexity="O(N) where N is the number of keys.",
    summary="Determines whether one or more keys exist.",
    decide=decisions.exists,
)
def exists(context: Context, session: Session, argv: list[bytes]) -> Any:
    if len(argv) > MAX_KEYS_AT_ONCE:
        return _exists_many(context, session, argv[1:])
    there = exist(context, places(context, session, argv[1:]))
    return sum(there) if isinstance(there, list) else _number(there)


async def _exists_many(context: Context, session: Session, keys: list[bytes]) -> int:
    there = exist(context, await place_all(context, session, keys, reading=True))
    return sum(there if isinstance(there, list) else await there)


async def _number(there: Awaitable[list[bool]]) -> int:
    return sum(await there)


@COMMANDS.command(
    "type",
    arity=2,
    access="read",
    keys=ONE_KEY,
    operation="get",
    flags=("fast",),
    summary="Determines the type of value stored at a key.",
    decide=decisions.type_of,
)
def type_(context: Context, session: Session, argv: list[bytes]) -> Any:
    return look(context, session, argv[1], lambda entry, _: Simple("none" if entry.value is None else "string"))


@COMMANDS.command(
    "dbsize",
    arity=1,
    flags=("readonly", "fast"),
    group="server",
    summary="Returns the number of keys that this node holds in memory.",
)
def dbsize(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Return the number of entries and dirty entries in memory: only S3 could count the bucket.

    For a client that uses this node for all keys: those of all nodes.
    """
    del argv
    number = len(context.node.memory) + len(context.node.dirty)
    return _with_others(context, number) if context.spans_nodes(session) else number


async def _with_others(context: Context, number: int) -> int:
    replies: list[int] = await context.other_nodes.request_all(command(b"DBSIZE"), context.timeout)
    return number + sum(replies)


@COMMANDS.command(
    "randomkey",
    arity=1,
    flags=("readonly",),
    summary="Returns a key that this node holds in memory.",
)
def randomkey(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Return a key that the node has in memory, chosen by the clock; None if there is none."""
    del argv
    node = context.node
    may_see = context.permissions.may_see
    for held in (node.dirty, node.memory):
        start = int(context.clock.now() * 1e6) % max(1, min(len(held), _CHOICE))
        for key in (*islice(held, start, start + _CHOICE), *islice(held, start)):
            if _is_there(context, key) and may_see(session, "randomkey", key):
                return key
    return None


def _is_there(context: Context, key: bytes) -> bool:
    """True if the node owns `key`, and has an object in memory for it that exists."""
    node = context.node
    if context.ownership.since[slot_of(key)] < 0:
        return False
    dirty = node.dirty.get(key)
    if dirty is not None:
        return not node.dirty_writes.is_gone(dirty)
    entry = node.memory.peek(key)
    return entry is not None and entry.value is not None and not is_expired(entry.expires_at, context.clock.wall())


COMMANDS.parent(
    "object",
    access="read",
    keys=KEY_OF_SUBCOMMAND,
    since="2.2.3",
    complexity="Depends on subcommand.",
    summary="A container for object introspection commands.",
)


@COMMANDS.command(
    "object|encoding",
    arity=3,
    access="read",
    keys=KEY_OF_SUBCOMMAND,
    since="2.2.3",
    usage="<key>",
    summary="Returns the encoding that Redis would use for the value: int, embstr or raw.",
    decide=decisions.encoding,
)
def encoding(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Reply with the encoding that Redis would use for the value."""
    return read(
        context, session, argv[2], lambda entry: None if entry.value is None else decisions.encoded_as(entry.value)
    )


@COMMANDS.command(
    "object|freq",
    arity=3,
    access="read",
    keys=KEY_OF_SUBCOMMAND,
    since="4.0.0",
    usage="<key>",
    summary="Is rejected for keys that exist: their reads are not counted.",
)
def freq(context: Context, session: Session, argv: list[bytes]) -> Any:
    def not_supported(entry: Entry, _: int) -> None:
        if entry.value is not None:
            raise CommandError(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when "
                "switching between policies at runtime LRU and LFU data will take some time to adjust."
            )

    return look(context, session, argv[2], not_supported)


@COMMANDS.command(
    "object|idletime",
    arity=3,
    access="read",
    keys=KEY_OF_SUBCOMMAND,
    since="2.2.3",
    usage="<key>",
    summary="Returns 0 for keys that exist: the time of their last read is not recorded.",
)
def idletime(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Reply 0 for a key that exists: the time of its last read is not recorded."""
    return look(context, session, argv[2], lambda entry, _: None if entry.value is None else 0)
