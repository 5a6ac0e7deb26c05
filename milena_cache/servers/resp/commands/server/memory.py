"""Pure. MEMORY: the memory of single keys and of the process, in bytes, and its diagnosis.

MEMORY USAGE is about this node's memory alone: S3 is never read.
"""

from __future__ import annotations

from typing import Any

from milena_cache.objects.entry import ENTRY_OVERHEAD
from milena_cache.servers.resp.dispatch.command import KEY_OF_SUBCOMMAND
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import OK, Raw, Verbatim
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer

# Share of LRU_BYTES, and of the process's limit, from which on memory is reported as full.
FULL = 0.95


COMMANDS = CommandTable[Context](group="server")


COMMANDS.parent(
    "memory",
    access="read",
    keys=KEY_OF_SUBCOMMAND,
    group="server",
    since="4.0.0",
    summary="A container for memory diagnostics commands.",
)


@COMMANDS.command(
    "memory|usage",
    arity=-3,
    access="read",
    keys=KEY_OF_SUBCOMMAND,
    since="4.0.0",
    usage="<key> [SAMPLES <count>]",
    summary="Returns the bytes that this node holds for a key.",
)
def usage(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Return the bytes of the key's entry or dirty entry; None if there is none, or the object does not exist."""
    if len(argv) > 3 and (len(argv) != 5 or argv[3].upper() != b"SAMPLES" or integer(argv[4]) < 0):
        raise CommandError(SYNTAX)
    target, _ = context.place(argv[2])
    key = target.cache_key
    entry, dirty = context.node.memory.peek(key), context.node.dirty.get(key)
    if dirty is not None:
        return None if dirty.deleted else dirty.cost
    return None if entry is None or entry.value is None else len(key) + entry.size + ENTRY_OVERHEAD


@COMMANDS.command(
    "memory|stats",
    arity=2,
    since="4.0.0",
    summary="Returns details about memory usage.",
)
def stats(context: Context, session: Session, argv: list[bytes]) -> dict[str, Any]:
    memory, dirty, used = context.node.memory, context.node.dirty, context.facts.usage()
    keys = len(memory) + len(dirty)
    held = memory.bytes + dirty.memory_bytes
    overhead = ENTRY_OVERHEAD * len(memory)
    waiting = sum(client.unread + client.unsent for client in context.clients.by_id.values())
    return {
        "peak.allocated": used.peak,
        "total.allocated": used.resident,
        "startup.allocated": 0,
        "replication.backlog": 0,
        "clients.slaves": 0,
        "clients.normal": waiting,
        "cluster.links": 0,
        "aof.buffer": 0,
        "lua.caches": 0,
        "functions.caches": 0,
        "db.0": {"overhead.hashtable.main": overhead, "overhead.hashtable.expires": 0},
        "overhead.total": max(0, used.resident - held) + overhead,
        "keys.count": keys,
        "keys.bytes-per-key": held // keys if keys else 0,
        "dataset.bytes": held,
        "dataset.percentage": 100.0 * held / max(1, used.resident),
        "peak.percentage": 100.0 * used.resident / max(1, used.peak),
        "fragmentation": used.resident / max(1, held),
        "fragmentation.bytes": max(0, used.resident - held),
    }


@COMMANDS.command(
    "memory|doctor",
    arity=2,
    since="4.0.0",
    summary="Returns a memory problems report.",
)
def doctor(context: Context, session: Session, argv: list[bytes]) -> Verbatim:
    memory, used = context.node.memory, context.facts.usage()
    findings = []
    if memory.bytes > FULL * memory.max_bytes or len(memory) >= memory.max_entries:
        evicted = sum(memory.evictions.values())
        findings.append(
            f"Memory is full: {len(memory)} entries of {memory.max_entries} (LRU_SIZE), {memory.bytes} bytes of "
            f"{memory.max_bytes} (LRU_BYTES); {evicted} entries were evicted since the start."
        )
    if used.resident > FULL * context.facts.memory:
        findings.append(
            f"The process uses {used.resident} bytes, and its limit is {context.facts.memory}: lower LRU_BYTES."
        )
    findings += context.status.degraded()
    return Verbatim("".join(f"{finding}\n" for finding in findings or ["No problems found."]))


@COMMANDS.command(
    "memory|purge",
    arity=2,
    since="4.0.0",
    summary="Has no effect: freed memory is available at once.",
)
def purge(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Return OK: there is nothing to release."""
    return Raw(OK)
