"""Coordination. MILENA.HANDOVER, MILENA.MERGE and MILENA.PEEK: slots that move between nodes.

`milena_cache.handover` describes them. Only nodes send them: a connection must have named this process first
(MILENA.HELLO), so that nothing is handed over to another process at the address.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from milena_cache.handover.destination import MERGE_SECONDS
from milena_cache.handover.frames import decode_ranges, decode_write
from milena_cache.handover.hot_entries import FIELDS
from milena_cache.objects.version import Version
from milena_cache.servers.resp.dispatch.admission import check_identified
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.errors import InvalidRequest
from milena_common.resp.redis_replies import integer

COMMANDS = CommandTable[Context](
    categories=("keyspace",), since="7.0.0", complexity="O(N) where N is the number of writes."
)


COMMANDS.parent(
    "milena.handover",
    categories=("keyspace",),
    since="7.0.0",
    complexity="Depends on the subcommand.",
    summary="A container for what the owner of moving slots sends to their destination.",
)


@COMMANDS.command(
    "milena.handover|writes",
    arity=-7,
    flags=("write", "denyoom"),
    summary="Takes dirty writes of slots that are to come to this node, and returns how many.",
    usage="<owner> <epoch> <ring_epoch> <serial> <write> [<write> ...]",
)
def writes(context: Context, session: Session, argv: list[bytes]) -> Coroutine[Any, Any, int]:
    """Merge `MILENA.HANDOVER WRITES owner epoch ring_epoch serial write …`. Raises as `Destination.receive`."""
    check_identified(session)
    owner, epoch, ring_epoch, serial = _move(argv)
    handed = [decode_write(raw) for raw in argv[6:]]
    return context.handover.destination.receive(owner, epoch, ring_epoch, serial, handed)


@COMMANDS.command(
    "milena.handover|announce",
    arity=6,
    flags=("write", "fast"),
    summary="Has requests for slots wait that their owner is about to release, and returns this node's time.",
    usage="<owner> <epoch> <ring_epoch> <first-last,...>",
)
def announce(context: Context, session: Session, argv: list[bytes]) -> int:
    """Expect the slots of `MILENA.HANDOVER ANNOUNCE owner epoch ring_epoch slots`; return the monotonic time in ms.

    Raises as `Destination.announce` does.
    """
    check_identified(session)
    owner = _owner(argv)
    ranges = decode_ranges(argv[5])
    return context.handover.destination.announce(owner, integer(argv[3]), integer(argv[4]), ranges)


@COMMANDS.command(
    "milena.handover|release",
    arity=-8,
    flags=("write", "fast"),
    summary="Takes slots that their owner does not serve any more, and returns how many, and since when.",
    usage="<owner> <epoch> <ring_epoch> <serial> <version> <first-last,...> [<floor>]",
)
def release(context: Context, session: Session, argv: list[bytes]) -> list[int] | Coroutine[Any, Any, list[int]]:
    """Take the slots of `MILENA.HANDOVER RELEASE owner epoch ring_epoch serial version slots [floor]`.

    `version` is the greatest that the owner has given to a write, `floor` the greatest version of a tombstone that
    it has dropped. Raises as `Destination.take_slots` does.
    """
    check_identified(session)
    owner, epoch, ring_epoch, serial = _move(argv)
    floor = _version(argv[8]) if len(argv) > 8 else None
    return context.handover.destination.take_slots(
        owner, epoch, ring_epoch, serial, _version(argv[6]), decode_ranges(argv[7]), floor
    )


def _version(text: bytes) -> Version:
    epoch, _, seq = text.partition(b"-")
    return Version(integer(epoch), integer(seq))


@COMMANDS.command(
    "milena.handover|hot",
    arity=-8,
    flags=("write", "denyoom"),
    complexity="O(N) where N is the number of entries.",
    summary="Keeps clean entries of slots that this node has taken, if there is room, and returns how many.",
    usage="<epoch> <key> <value> <etag> <age_ms> <expires_at> [<key> ...]",
)
def hot(context: Context, session: Session, argv: list[bytes]) -> int:
    """Keep the entries of `MILENA.HANDOVER HOT epoch (key value etag age_ms expires_at) …`; return how many.

    Raises InvalidRequest.
    """
    check_identified(session)
    epoch, fields = integer(argv[2]), argv[3:]
    if len(fields) % FIELDS:
        raise InvalidRequest(f"entries: got {len(fields)} fields; allowed: {FIELDS} for each")
    old_owner = context.handover.old_owner
    kept = 0
    for key, value, etag, age_ms, expires_at in zip(*[iter(fields)] * FIELDS, strict=True):
        try:
            entry = old_owner.clean_entry(epoch, value, etag.decode(), integer(age_ms) / 1000, float(expires_at))
        except ValueError:
            raise InvalidRequest("entries: an ETag is not UTF-8, or an expiry no number") from None
        kept += old_owner.keep(epoch, key, entry)
    return kept


def _move(argv: list[bytes]) -> tuple[str, int, int, int]:
    return _owner(argv), integer(argv[3]), integer(argv[4]), integer(argv[5])


def _owner(argv: list[bytes]) -> str:
    try:
        return argv[2].decode()
    except UnicodeDecodeError:
        raise InvalidRequest("owner: is not UTF-8") from None


@COMMANDS.command(
    "milena.merge",
    arity=-2,
    flags=("write", "denyoom"),
    summary="Takes dirty writes that another node has of slots of this node, and returns which it did not take.",
)
def merge(context: Context, session: Session, argv: list[bytes]) -> Coroutine[Any, Any, list[int]]:
    """Merge `MILENA.MERGE write …`; return the positions of those that are too late. Raises as `Handover.merge`."""
    check_identified(session)
    return context.handover.merge([decode_write(raw) for raw in argv[1:]], MERGE_SECONDS)


@COMMANDS.command(
    "milena.peek",
    arity=3,
    flags=("readonly", "fast"),
    complexity="O(1)",
    summary="Returns the fresh clean entry that this node has of a key whose slot it has handed over.",
)
def peek(context: Context, session: Session, argv: list[bytes]) -> list[Any] | None:
    """Return value, ETag, age in milliseconds and expiry: `MILENA.PEEK epoch key`; null if there is none.

    `epoch`: since which the new owner owns the slot.
    """
    check_identified(session)
    return context.handover.old_owner.peek(integer(argv[1]), argv[2])
