"""Coordination. SCAN: the keys of the default bucket that this node owns, page by page.

The pages are those of `reads.listing`: what S3 lists, merged with the writes that it does not have yet, in the
order of the keys' bytes and each key once. Each node returns its own keys. An expired object is returned until its
expiry is noticed.
"""

from __future__ import annotations

from typing import Any

from milena_cache.objects.object_store import Page
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.cursors import Place
from milena_common.access.glob import Glob
from milena_common.api.keys import MAX_KEY_BYTES, cache_key
from milena_common.cluster.slots import slot_of
from milena_common.resp.encoding import command
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer

# COUNT is a hint: fewer keys in one request to S3 would only cost time, and S3 returns no more.
MIN_KEYS, MAX_KEYS = 100, 1000
DEFAULT_COUNT = 10

_BEGINNING = Place(b"", "")
# Prefix of the spelling of keys that would otherwise be taken for keys of another bucket.
_SCHEME = b"s3://"


COMMANDS = CommandTable[Context]()


@COMMANDS.command(
    "scan",
    arity=-2,
    operation="list",
    flags=("readonly",),
    categories=("keyspace", "read", "slow"),
    since="2.8.0",
    complexity="O(1) for every call. O(N) for a complete iteration.",
    summary="Iterates over the keys of the default bucket.",
)
def scan(context: Context, session: Session, argv: list[bytes]) -> Any:
    cursor = _cursor(argv[1])
    glob = Glob(b"*")
    count = DEFAULT_COUNT
    type_ = b"string"
    at = 2
    while at < len(argv):
        option = argv[at].upper()
        if at + 1 == len(argv):
            raise CommandError(SYNTAX)
        if option == b"COUNT":
            count = integer(argv[at + 1])
            if count < 1:
                raise CommandError(SYNTAX)
        elif option == b"MATCH":
            glob = Glob(argv[at + 1])
        elif option == b"TYPE":
            type_ = argv[at + 1].lower()
        else:
            raise CommandError(SYNTAX)
        at += 2
    if cursor:
        place = context.cursors.find(cursor, context.clock.now())
        if place is None:
            raise CommandError("ERR invalid cursor: it is not known here, or not any more; begin with 0")
    else:
        place = _BEGINNING._replace(prefix=listed_prefix(glob.literal))
        if context.spans_nodes(session):
            place = place._replace(owners=context.other_nodes.owners)
    if type_ != b"string" or len(place.prefix) > MAX_KEY_BYTES:
        return [b"0", []]
    limit = max(MIN_KEYS, min(count, MAX_KEYS))
    if place.owners:
        context.other_nodes.check_owners(place.owners)
    if place.node:
        return _page_of(context, session, place, argv, limit)
    return _page(context, session, place, glob, limit)


async def _page(context: Context, session: Session, place: Place, glob: Glob, limit: int) -> list[Any]:
    check_fence(context)
    page = await context.node.list("", place.prefix, place.cursor, limit, context.timeout)
    check_fence(context)  # also after the listing: without slots every page would be empty
    keys = [key for key in own_keys(context, page, glob) if context.permissions.may_see(session, "scan", key)]
    return [_continued(context, place, page.cursor), keys]


async def _page_of(context: Context, session: Session, place: Place, argv: list[bytes], limit: int) -> list[Any]:
    """Return a page of another node's keys, for a client that uses this node for all keys."""
    options = [word for at in range(2, len(argv), 2) if argv[at].upper() == b"MATCH" for word in argv[at : at + 2]]
    sent = command(b"SCAN", place.cursor.encode() or b"0", *options, b"COUNT", b"%d" % limit)
    reply = await context.other_nodes.request(place.node, sent, context.timeout)
    context.other_nodes.check_owners(place.owners)
    cursor = reply[0].decode()
    keys = [key for key in reply[1] if context.permissions.may_see(session, "scan", key)]
    return [_continued(context, place, "" if cursor == "0" else cursor), keys]


def _continued(context: Context, place: Place, cursor: str) -> bytes:
    """Return the cursor of the page behind that of `place`: of the same node, or of the next one."""
    following = place._replace(cursor=cursor)
    if not cursor:
        nodes = ["", *context.other_nodes.addresses()] if place.owners else [""]
        at = nodes.index(place.node) + 1
        if at == len(nodes):
            return b"0"
        following = following._replace(node=nodes[at])
    return b"%d" % context.cursors.add(following, context.clock.now())


def own_keys(context: Context, page: Page, glob: Glob) -> list[bytes]:
    """Return the keys of a listing's page that this node owns, and that match."""
    since = context.ownership.since
    dirty_entry = context.node.dirty.get
    keys = []
    for info in page.objects:
        entry_key = cache_key("", info.key.encode())
        dirty = dirty_entry(entry_key)
        # A listing shows objects whose delete is of an earlier start or ownership; a GET of this node does not.
        if dirty is not None and context.node.dirty_writes.is_gone(dirty):
            continue
        if since[slot_of(entry_key)] >= 0 and glob.matches(entry_key):
            keys.append(entry_key)
    return keys


def check_fence(context: Context) -> None:
    """Raise the error of a node that may serve nothing now."""
    if (rejected := context.fence.fence_error()) is not None:
        raise rejected


def listed_prefix(literal: bytes) -> bytes:
    """Return the prefix for S3's listing, if every matching key begins with `literal`.

    Keys in S3 are UTF-8, so it is cut at the first byte that is not. The keys of the default bucket that begin with
    `s3://` here are those whose bare name does too, see `_SCHEME`.
    """
    if literal.startswith(_SCHEME):
        return _SCHEME
    literal = literal.partition(b"\0")[0]
    try:
        literal.decode()
    except UnicodeDecodeError as error:
        return literal[: error.start]
    return literal


def _cursor(word: bytes) -> int:
    if not word.isdigit() or int(word[:21]) >= 2**64:
        raise CommandError("ERR invalid cursor")
    return int(word)
