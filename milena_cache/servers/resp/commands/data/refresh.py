"""Coordination. MILENA.REFRESH: has keys read from S3 anew, after another program has written the bucket.

Only clean entries are dropped, see `milena_cache.reads.refresh`.
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.commands.data.reading import MAX_KEYS_AT_ONCE, place_all, places
from milena_cache.servers.resp.dispatch.command import ALL_KEYS
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context

COMMANDS = CommandTable[Context]()


@COMMANDS.command(
    "milena.refresh",
    arity=-2,
    access="write",
    keys=ALL_KEYS,
    operation="refresh",
    flags=("fast",),
    categories=("keyspace",),
    since="7.0.0",
    complexity="O(N) where N is the number of keys.",
    summary="Drops the node's clean entries of keys; S3 and dirty entries stay as they are.",
)
def refresh(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Drop the entries of the keys, and return how many there were."""
    if len(argv) > MAX_KEYS_AT_ONCE:
        return _refresh_many(context, session, argv[1:])
    targets = places(context, session, argv[1:], reading=False)
    return context.node.refresher.now(place.cache_key for place, _ in targets).refreshed


async def _refresh_many(context: Context, session: Session, keys: list[bytes]) -> int:
    targets = await place_all(context, session, keys, reading=False)
    return (await context.node.refresher.keys(place.cache_key for place, _ in targets)).refreshed
