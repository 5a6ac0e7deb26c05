"""Pure. MILENA.LISTING: another node lists a bucket, and requests which keys of its page this node has deleted.

`milena_cache.reads.peer_listings` describes the subcommands. Any client may send them; they change no object.
"""

from __future__ import annotations

from collections.abc import Sequence

from milena_cache.servers.resp.dispatch.call_times import timeout_ms
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
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
    arity=3,
    flags=("readonly", "fast"),
    summary="Announces a listing of S3, and returns its number.",
    usage="<timeout_ms>",
)
def begin(context: Context, session: Session, argv: list[bytes]) -> int:
    """Return the number of a new listing: `MILENA.LISTING BEGIN timeout_ms`. Raises InvalidRequest, Overloaded."""
    del session
    return context.peer_listings.begin_listing(timeout_ms(argv[2]) / 1000)


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
