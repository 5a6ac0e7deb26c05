"""Coordination. Commands on all keys of the default bucket: KEYS, FLUSHDB, FLUSHALL.

A node lists S3 and its dirty data page by page, and takes the keys that it owns. For a client that uses this node
for all keys the other nodes do the same with theirs, and the results are merged.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from milena_cache.objects.write_request import Change
from milena_cache.servers.resp.commands.data.scan import MAX_KEYS, check_fence, listed_prefix, own_keys
from milena_cache.servers.resp.commands.data.writing import write_all
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.access.glob import Glob
from milena_common.api.errors import MilenaError
from milena_common.api.keys import MAX_KEY_BYTES
from milena_common.resp.encoding import OK, Raw, command
from milena_common.resp.redis_replies import SYNTAX, CommandError

log = logging.getLogger(__name__)

# Bytes of the keys that KEYS returns, with KEY_OVERHEAD for each.
MAX_REPLY_BYTES = 64 * 2**20
KEY_OVERHEAD = 64
# A request to another node for all of its keys ends after so many seconds: it lists the whole bucket.
WHOLE_SECONDS = 600.0
# Deletes after which the progress of a flush is logged.
PROGRESS = 10_000


COMMANDS = CommandTable[Context](categories=("keyspace", "dangerous", "slow"))


@COMMANDS.command(
    "keys",
    arity=2,
    operation="list",
    flags=("readonly",),
    behind_all=True,
    complexity="O(N) with N being the number of objects in the bucket.",
    summary="Returns all key names that match a pattern.",
)
async def keys(context: Context, session: Session, argv: list[bytes]) -> list[bytes]:
    glob = Glob(argv[1])
    found: list[bytes] = []
    size = 0

    def add(some: list[bytes]) -> None:
        nonlocal size
        for key in some:
            if context.permissions.may_see(session, "keys", key):
                size += len(key) + KEY_OVERHEAD
                found.append(key)
        if size > MAX_REPLY_BYTES:
            raise CommandError(f"ERR the keys that match have more than {MAX_REPLY_BYTES} bytes; use SCAN")

    owners = context.other_nodes.owners
    async for page in _pages(context, glob):
        add(page)
    if context.spans_nodes(session):
        for reply in await context.other_nodes.request_all(command(b"KEYS", argv[1]), WHOLE_SECONDS):
            add(reply)
        context.other_nodes.check_owners(owners)
    return found


async def _pages(context: Context, glob: Glob) -> AsyncIterator[list[bytes]]:
    """Yield the keys that this node owns and that match, page by page."""
    prefix = listed_prefix(glob.literal)
    if len(prefix) > MAX_KEY_BYTES:
        return
    cursor = ""
    while True:
        check_fence(context)
        page = await context.node.list("", prefix, cursor, MAX_KEYS, context.timeout)
        check_fence(context)
        yield own_keys(context, page, glob)
        cursor = page.cursor
        if not cursor:
            return


@COMMANDS.command(
    "flushall",
    arity=-1,
    flags=("write",),
    group="server",
    operation="delete",
    complexity="O(N) where N is the number of keys.",
    behind_all=True,
    summary="Drops all cached copies, or deletes all objects, if ALLOW_FLUSH says which.",
)
@COMMANDS.command(
    "flushdb",
    arity=-1,
    flags=("write",),
    group="server",
    operation="delete",
    complexity="O(N) where N is the number of keys.",
    behind_all=True,
    summary="Drops all cached copies, or deletes all objects, if ALLOW_FLUSH says which.",
)
def flush(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Flush the keys that this node owns, for a client of this node alone those of all. Raises CommandError."""
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() not in (b"SYNC", b"ASYNC")):
        raise CommandError(SYNTAX)
    allowed = context.config.allow_flush
    if allowed == "no":
        raise CommandError(
            f"ERR {argv[0].decode().upper()} is not allowed: ALLOW_FLUSH=cache lets it drop the cached copies, and "
            "ALLOW_FLUSH=objects delete the objects in the bucket; nothing was done"
        )
    session.flushing = True
    return _flush(context, session, allowed)


async def _flush(context: Context, session: Session, allowed: str) -> Raw:
    log.warning("FLUSHDB of %s by user %r from %s begins", allowed, session.principal.name, session.addr)
    owners = context.other_nodes.owners
    try:
        if allowed == "cache":
            number = (await context.requests.refresh("", (), b"")).refreshed
        else:
            number = await _delete_objects(context)
        if context.spans_nodes(session):
            await context.other_nodes.request_all(command(b"FLUSHDB"), WHOLE_SECONDS)
            # A slot that came to a node after that had flushed was flushed by none.
            context.other_nodes.check_owners(owners)
    except MilenaError as error:
        log.warning("FLUSHDB of %s ended early: %s", allowed, error)
        raise
    finally:
        session.flushing = False
    log.warning("FLUSHDB of %s has ended: %d on this node", allowed, number)
    return Raw(OK)


async def _delete_objects(context: Context) -> int:
    """Delete every object of the default bucket whose key this node owns, a page at a time; return how many."""
    number = 0
    async for page in _pages(context, Glob(b"*")):
        places = [context.place(key) for key in page]
        result = write_all(context, (Change(place, None, owned_since=since) for place, since in places), None)
        if result is not None:
            await result
        before, number = number, number + len(page)
        context.flushed += len(page)
        if number // PROGRESS > before // PROGRESS:
            log.warning("FLUSHDB of objects: %d deleted on this node", number)
    return number
