"""Pure. WAIT and WAITAOF: in how many journals the writes of a connection are.

An acknowledged write is where its class says, so there is nothing to wait for: of the class `back` in the journals
of its owner and of COPIES - 1 other nodes, or in S3 if there are too few of them (COPIES_POLICY).
"""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.api.durability import MEMORY
from milena_common.resp.redis_replies import CommandError, integer

COMMANDS = CommandTable[Context](flags=("noscript",), categories=("slow", "connection"), behind_all=True)


def _copies(context: Context) -> int:
    """Return how many other nodes have the writes that have no DURABILITY of their own."""
    if context.config.write_mode == MEMORY:
        return 0
    return max(0, min(context.config.copies, len(context.ownership.slot_map.nodes)) - 1)


def _checked(word: bytes, what: str) -> int:
    number = integer(word, f"ERR {what}")
    if number < 0:
        raise CommandError("ERR timeout is negative")
    return number


@COMMANDS.command(
    "wait",
    arity=3,
    since="3.0.0",
    summary="Returns how many other nodes have the connection's acknowledged writes in their journals.",
)
def wait(context: Context, session: Session, argv: list[bytes]) -> int:
    integer(argv[1])
    _checked(argv[2], "timeout is not an integer or out of range")
    return _copies(context)


@COMMANDS.command(
    "waitaof",
    arity=4,
    since="7.2.0",
    summary="Returns whether the journal has the connection's acknowledged writes, and how many other ones have.",
)
def waitaof(context: Context, session: Session, argv: list[bytes]) -> list[int]:
    integer(argv[1])
    integer(argv[2])
    _checked(argv[3], "timeout is not an integer or out of range")
    return [int(context.config.write_mode != MEMORY), _copies(context)]
