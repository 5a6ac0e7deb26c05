"""Coordination. What is done to a ring: each fault begins, lasts, and ends with all processes running again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import NamedTuple

from tests.faults.ring_faults.system import ROUTER, ProxiedNode, RingSystem

# A partition or pause lasts so many leases: leases end, and the ring changes.
LONG_LEASES = 2


class Victims(NamedTuple):
    """Names of the nodes whose acknowledged writes may be out of sight, since they are lost with dirty ones."""

    names: frozenset[str] = frozenset()


NO_VICTIMS = Victims()


async def pause(system: RingSystem, random: Random) -> Victims:
    """SIGSTOP a node for two leases."""
    node = random.choice(system.running)
    node.pause()
    await asyncio.sleep(LONG_LEASES * system.lease_seconds)
    node.resume()
    return _victims(node)


async def disconnect_from_router(system: RingSystem, random: Random) -> Victims:
    """Disconnect a node from the router, in both directions."""
    node = random.choice(system.running)
    await _disconnect(system, _both(node.name, ROUTER))
    return _victims(node)


async def disconnect_to_router(system: RingSystem, random: Random) -> Victims:
    """Lose what a node sends to the router."""
    node = random.choice(system.running)
    await _disconnect(system, [(node.name, ROUTER)])
    return _victims(node)


async def disconnect_by_router(system: RingSystem, random: Random) -> Victims:
    """Lose what the router sends to a node."""
    node = random.choice(system.running)
    await _disconnect(system, [(ROUTER, node.name)])
    return _victims(node)


async def disconnect_nodes(system: RingSystem, random: Random) -> Victims:
    """Disconnect a node from the other nodes, and not from the router."""
    node = random.choice(system.running)
    await _disconnect(system, [link for other in _others(system, node) for link in _both(node.name, other)])
    return NO_VICTIMS


async def disconnect_nodes_one_way(system: RingSystem, random: Random) -> Victims:
    """Lose what a node sends to the other nodes."""
    node = random.choice(system.running)
    await _disconnect(system, [(node.name, other) for other in _others(system, node)])
    return NO_VICTIMS


async def isolate(system: RingSystem, random: Random) -> Victims:
    """Disconnect a node from the router and the other nodes; clients reach it."""
    node = random.choice(system.running)
    await _disconnect(
        system, [link for other in (ROUTER, *_others(system, node)) for link in _both(node.name, other)]
    )
    return _victims(node)


async def disconnect_router(system: RingSystem, _: Random) -> Victims:
    """Disconnect the router from all nodes."""
    await _disconnect(system, [link for node in system.running for link in _both(node.name, ROUTER)])
    return NO_VICTIMS


async def join_and_leave(system: RingSystem, _: Random) -> Victims:
    """Add a node, and stop it in order."""
    node = system.add_node()
    await asyncio.to_thread(node.wait_ready)
    await asyncio.sleep(1.0)
    await asyncio.to_thread(system.remove_node, node)
    system.nodes.remove(node)
    return NO_VICTIMS


async def stop_and_start(system: RingSystem, random: Random) -> Victims:
    """Stop a node in order, and start it again."""
    node = random.choice(system.running)
    await asyncio.to_thread(system.remove_node, node)
    system.start_again(node)
    return NO_VICTIMS


async def restart_router(system: RingSystem, random: Random) -> Victims:
    """Stop the router, in order or by SIGKILL, and start it again."""
    if random.random() < 0.5:
        system.router.terminate()
        await asyncio.to_thread(system.router.wait)
        system.network.process_exited(ROUTER)
    else:
        system.kill(system.router)
    system.start_again(system.router)
    return NO_VICTIMS


async def kill_and_start(system: RingSystem, random: Random) -> Victims:
    """SIGKILL a node, and start it again with its journal at once."""
    node = random.choice(system.running)
    system.kill(node)
    system.start_again(node)
    return _victims(node)


async def kill(system: RingSystem, random: Random) -> Victims:
    """SIGKILL a node, and start it again with its journal after two leases."""
    node = random.choice(system.running)
    system.kill(node)
    await asyncio.sleep(LONG_LEASES * system.lease_seconds)
    system.start_again(node)
    return _victims(node)


Fault = Callable[[RingSystem, Random], Awaitable[Victims]]
FAULTS: dict[str, Fault] = {
    "node paused for two leases": pause,
    "partition: node and router": disconnect_from_router,
    "partition: node to router, one way": disconnect_to_router,
    "partition: router to node, one way": disconnect_by_router,
    "partition: node and other nodes": disconnect_nodes,
    "partition: node to other nodes, one way": disconnect_nodes_one_way,
    "partition: node and all others": isolate,
    "partition: router and all nodes": disconnect_router,
    "node joins, and leaves": join_and_leave,
    "node stops in order, and returns": stop_and_start,
    "router restarts": restart_router,
    "node killed, and back at once": kill_and_start,
    "node killed, and back later": kill,
}


def _victims(node: ProxiedNode) -> Victims:
    return Victims(frozenset([node.name]))


def _others(system: RingSystem, node: ProxiedNode) -> list[str]:
    return [other.name for other in system.running if other is not node]


def _both(one: str, other: str) -> list[tuple[str, str]]:
    return [(one, other), (other, one)]


async def _disconnect(system: RingSystem, links: Sequence[tuple[str, str]]) -> None:
    await asyncio.to_thread(system.network.disconnect, links)
    await asyncio.sleep(LONG_LEASES * system.lease_seconds)
    await asyncio.to_thread(system.network.restore)
