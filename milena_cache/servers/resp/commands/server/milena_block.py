"""Coordination. MILENA.BLOCK: bytes of a large object, from the node that keeps their blocks.

`milena_cache.blocks` describes them. Only nodes send it: the owner of the object's key, which knows the version
that is current, and whether its reader may read it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from milena_cache.blocks.block_reads import Replaced
from milena_cache.blocks.layout import Version
from milena_cache.servers.resp.dispatch.admission import check_identified
from milena_cache.servers.resp.dispatch.call_times import timeout_ms
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.byte_range import MAX_PART_BYTES, ByteRange
from milena_common.api.errors import ConditionFailed, InvalidRequest
from milena_common.api.keys import split_cache_key
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer

COMMANDS = CommandTable[Context](categories=("keyspace",), since="7.0.0")


@COMMANDS.command(
    "milena.block",
    arity=-7,
    flags=("readonly",),
    complexity="O(N) where N is the length of the returned bytes.",
    summary="Returns bytes of one version of a large object.",
)
def block(
    context: Context, session: Session, argv: list[bytes]
) -> list[bytes | int] | Coroutine[Any, Any, list[bytes | int]]:
    """Return the bytes, how many blocks S3 returned for them, and 1 if they waited for S3.

    `MILENA.BLOCK key etag size offset length timeout_ms [AHEAD]`; with AHEAD no bytes, and at once: a read of them
    will come, and what is missing begins to be read. Raises ConditionFailed if S3 has another version.
    """
    check_identified(session)
    ahead = len(argv) == 8
    if len(argv) > 8 or (ahead and argv[7].upper() != b"AHEAD"):
        raise CommandError(SYNTAX)
    try:
        etag, (bucket, key) = argv[2].decode(), split_cache_key(argv[1])
    except UnicodeDecodeError:
        raise InvalidRequest("key, etag: are not UTF-8") from None
    version = Version(context.buckets.resolve(bucket, key), etag, integer(argv[3]))
    part = ByteRange(integer(argv[4]), integer(argv[5]))
    limit = min(MAX_PART_BYTES, context.config.max_value_bytes)
    if not etag or part.offset < 0 or not 0 < part.length <= limit or sum(part) > version.size:
        raise InvalidRequest(f"offset, length: allowed are 1 to {limit} bytes within the object, with an ETag")
    if ahead:
        context.blocks.read_ahead(version, part)
        return [b"", 0, 0]
    value = context.blocks.find_range(version, part)
    return _read(context, version, part, timeout_ms(argv[6]) / 1000) if value is None else [value, 0, 0]


async def _read(context: Context, version: Version, part: ByteRange, timeout: float) -> list[bytes | int]:
    try:
        value, fetched, waited = await context.blocks.read_range(version, part, timeout)
    except Replaced:
        raise ConditionFailed("etag: S3 has another version of the object, or none") from None
    return [value, fetched, int(waited)]
