"""Coordination. CLUSTER: the ring in the form of Redis Cluster, by which its clients find the owner of a key.

The ring has no replicas: the slots of a node that leaves go to other nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha1
from itertools import islice
from typing import Any

from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.ring_view import RingView
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.resp.encoding import Raw, Verbatim
from milena_common.resp.redis_replies import CommandError, integer

# Keys that are compared in one step of the event loop.
STEP = 2000
MAX_COUNT = 2**63


COMMANDS = CommandTable[Context](group="cluster")


COMMANDS.parent(
    "cluster",
    group="cluster",
    since="3.0.0",
    summary="A container for cluster commands.",
)


@COMMANDS.command(
    "cluster|info",
    arity=2,
    flags=("stale", "loading"),
    since="3.0.0",
    summary="Returns information about the state of a node.",
)
def info(context: Context, session: Session, argv: list[bytes]) -> Verbatim:
    session.forwards = False
    ring = context.ring_of(session).members(context.ownership)
    assigned = sum(last - first + 1 for node, _ in ring for first, last in node.ranges)
    epoch = context.ownership.epoch
    fields = {
        "cluster_state": "ok" if assigned == SLOTS else "fail",
        "cluster_slots_assigned": assigned,
        "cluster_slots_ok": assigned,
        "cluster_slots_pfail": 0,
        "cluster_slots_fail": 0,
        "cluster_known_nodes": len(ring),
        "cluster_size": sum(bool(node.ranges) for node, _ in ring),
        "cluster_current_epoch": epoch,
        "cluster_my_epoch": epoch,
        "cluster_stats_messages_sent": 0,
        "cluster_stats_messages_received": 0,
        "total_cluster_links_buffer_limit_exceeded": 0,
    }
    return Verbatim("".join(f"{name}:{value}\r\n" for name, value in fields.items()))


@COMMANDS.command(
    "cluster|myid",
    arity=2,
    flags=("stale", "loading"),
    since="3.0.0",
    summary="Returns the ID of a node.",
)
def my_id(context: Context, session: Session, argv: list[bytes]) -> str:
    me = context.ownership.me
    return next(
        (node.id for node in context.ownership.nodes if node.address == me),
        sha1(me.encode(), usedforsecurity=False).hexdigest(),
    )


@COMMANDS.command(
    "cluster|nodes",
    arity=2,
    flags=("stale", "loading"),
    since="3.0.0",
    summary="Returns the cluster configuration for a node.",
)
def nodes(context: Context, session: Session, argv: list[bytes]) -> Verbatim:
    session.forwards = False
    return Verbatim(context.ring_of(session).nodes(context.ownership))


@COMMANDS.command(
    "cluster|slots",
    arity=2,
    flags=("stale", "loading"),
    since="3.0.0",
    summary="Returns the mapping of cluster slots to nodes.",
)
def slots(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.forwards = False
    return _known_ring(context, session).slots(context.ownership)


def _known_ring(context: Context, session: Session) -> RingView:
    """Return the ring in the form for this client. Raises CommandError while no node in it has slots.

    An empty reply would be taken for the truth: redis-py 8.1.0 then fails with an IndexError, and does not go on to
    another node.
    """
    ring = context.ring_of(session)
    if not any(node.ranges for node, _ in ring.members(context.ownership)):
        raise CommandError(
            "CLUSTERDOWN this node knows of no node that has slots and that this client could connect to; request "
            "the slots of another node, or try again when it has joined (ROUTER_ADDR)"
        )
    return ring


@COMMANDS.command(
    "cluster|shards",
    arity=2,
    flags=("stale", "loading"),
    since="7.0.0",
    summary="Returns the mapping of cluster slots to shards.",
)
def shards(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    session.forwards = False
    ring = _known_ring(context, session)
    return [
        {
            "slots": ranges,
            "nodes": [
                {
                    "id": node.id,
                    "port": address.port,
                    "ip": address.host,
                    "endpoint": address.host,
                    "role": "master",
                    "replication-offset": 0,
                    "health": "online",
                }
            ],
        }
        for (node, address), ranges in zip(
            ring.members(context.ownership), ring.ranges(context.ownership), strict=True
        )
    ]


@COMMANDS.command(
    "cluster|keyslot",
    arity=3,
    flags=("stale",),
    since="3.0.0",
    usage="<key>",
    summary="Returns the hash slot for a key.",
)
def keyslot(context: Context, session: Session, argv: list[bytes]) -> int:
    return slot_of(argv[2])


@COMMANDS.command(
    "cluster|countkeysinslot",
    arity=3,
    flags=("stale",),
    since="3.0.0",
    usage="<slot>",
    summary="Returns how many keys of a slot this node holds.",
)
async def countkeysinslot(context: Context, session: Session, argv: list[bytes]) -> int:
    return len(
        await _held(context, _slot(argv[2], "ERR Invalid slot"), len(context.node.memory) + len(context.node.dirty))
    )


@COMMANDS.command(
    "cluster|getkeysinslot",
    arity=4,
    flags=("stale",),
    since="3.0.0",
    usage="<slot> <count>",
    summary="Returns keys of a slot that this node holds.",
)
async def getkeysinslot(context: Context, session: Session, argv: list[bytes]) -> list[bytes]:
    limit = integer(argv[3])
    slot = _slot(argv[2], "ERR Invalid slot or number of keys")
    if limit < 0:
        raise CommandError("ERR Invalid slot or number of keys")
    may_see = context.permissions.may_see
    found = await _held(context, slot, limit, lambda key: may_see(session, "cluster|getkeysinslot", key))
    return found


async def _held(
    context: Context, slot: int, limit: int, may_see: Callable[[bytes], bool] = lambda _: True
) -> list[bytes]:
    """Return at most `limit` keys of the slot that this node has in memory, clean or dirty.

    `may_see`: True for keys that may be returned.
    """
    memory, dirty = context.node.memory, context.node.dirty
    keys = [*memory, *(key for key in dirty if key not in memory)]
    found: list[bytes] = []
    for start in range(0, len(keys), STEP):
        for key in islice(keys, start, start + STEP):
            if slot_of(key) != slot or not may_see(key):
                continue
            write, entry = dirty.get(key), memory.peek(key)
            if not write.deleted if write else entry is not None and entry.value is not None:
                found.append(key)
        if len(found) >= limit:
            break
        await asyncio.sleep(0)
    return found[:limit]


@COMMANDS.command(
    "cluster|replicas",
    arity=3,
    flags=("stale",),
    since="5.0.0",
    usage="<node-id>",
    summary="Returns nothing: there are no replicas.",
)
def replicas(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    name = argv[2].decode(errors="replace")
    if all(node.id != name for node, _ in context.ring_of(session).members(context.ownership)):
        raise CommandError(f"ERR Unknown node {name[:128]}")
    return []


@COMMANDS.command(
    "cluster|links",
    arity=2,
    flags=("stale", "loading"),
    since="7.0.0",
    summary="Returns nothing: there is no cluster bus between nodes.",
)
def links(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    return []


def _slot(word: bytes, error: str) -> int:
    slot = integer(word)
    if not 0 <= slot < SLOTS:
        raise CommandError(error)
    return slot
