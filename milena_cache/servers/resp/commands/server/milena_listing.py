"""Coordination. MILENA.LISTING: another node lists a bucket, and requests what this node has written and deleted.

`milena_cache.reads.peer_listings` describes the subcommands. Any client may send them; they change no object.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from milena_cache.objects.unlisted import Names, Unlisted
from milena_cache.servers.resp.dispatch.call_times import timeout_ms
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.errors import InvalidRequest
from milena_common.resp.redis_replies import integer

COMMANDS = CommandTable[Context](categories=("keyspace",), since="7.0.0")


COMMANDS.parent(
    "milena.listing",
    categories=("keyspace",),
    since="7.0.0",
    complexity="Depends on the subcommand.",
    summary="A container for requests between nodes about listings.",
)


@COMMANDS.command(
    "milena.listing|begin",
    arity=8,
    flags=("readonly",),
    complexity="O(N) where N is the number of writes that S3 does not have yet.",
    summary="Announces a listing of S3, and returns its number and what this node has written of its page.",
    usage="<timeout_ms> <bucket> <prefix> <delimiter> <last> <limit>",
)
def begin(context: Context, session: Session, argv: list[bytes]) -> Awaitable[list[Any]]:
    """Begin a listing: `MILENA.LISTING BEGIN timeout_ms bucket prefix delimiter last limit`.

    Return its number, the last name up to which what follows is complete, or null, and for each name four elements:
    itself, its size in bytes, -1 for a common prefix, its ETag, and its time in milliseconds since 1970. Raises
    InvalidRequest, Overloaded.
    """
    del session
    try:
        bucket, prefix, delimiter, last = (each.decode() for each in argv[3:7])
    except UnicodeDecodeError:
        raise InvalidRequest("bucket, prefix, delimiter, last: allowed is UTF-8") from None
    listings, names = context.peer_listings, Names(prefix, delimiter, last, integer(argv[7]))
    # Before the writes are looked at: what is uploaded from now on is recorded.
    number = listings.begin_listing(timeout_ms(argv[2]) / 1000)
    return _begun(number, listings.unlisted(bucket, names))


async def _begun(number: int, looking: Awaitable[Unlisted]) -> list[Any]:
    names, until = await looking
    reply: list[Any] = [number, None if until is None else until.encode()]
    for name, info in names.items():
        size, etag, at = (-1, "", 0.0) if info is None else (info.size, info.etag, info.last_modified)
        reply += (name.encode(), size, etag.encode(), int(at * 1000))
    return reply


@COMMANDS.command(
    "milena.listing|end",
    arity=-3,
    flags=("readonly", "fast"),
    complexity="O(N) where N is the number of keys.",
    summary="Returns the listed keys that this node has deleted, or null if the page must be listed again.",
    usage="<number> [<key> ...]",
)
def end(context: Context, session: Session, argv: list[bytes]) -> Sequence[bytes] | None:
    """Return the deleted keys among those of a listing: `MILENA.LISTING END number [key …]`; null if not known.

    Raises InvalidRequest.
    """
    del session
    return context.peer_listings.end_listing(integer(argv[2]), argv[3:])
