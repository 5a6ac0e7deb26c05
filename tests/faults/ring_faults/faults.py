"""Coordination. What is done to a ring: each fault begins, lasts, and ends with all processes running again.

Where the nodes keep no copies of each other's writes, a fault names the nodes whose acknowledged writes may be out
of sight for a while. Where they do, no fault here loses one: of an owner and its successor one journal is left.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import NamedTuple

from tests.faults.ring_faults.system import ROUTER, ProxiedNode, RingSystem

# A partition or pause lasts so many leases: leases end, and the ring changes.
LONG_LEASES = 2
# How long a storm may take until the ring is whole, and how long a node is stopped by SIGSTOP in one.
STORM_SECONDS = 30.0
PAUSE_SECONDS = 3.0


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


async def lose(system: RingSystem, random: Random) -> Victims:
    """SIGKILL a node, destroy its disk, and start it again with a new one after two leases."""
    node = random.choice(system.running)
    system.kill(node)
    shutil.rmtree(node.journal)
    await asyncio.sleep(LONG_LEASES * system.lease_seconds)
    system.start_again(node)
    return _victims(node)


async def kill_two(system: RingSystem, random: Random) -> Victims:
    """SIGKILL two nodes at once, and start them again with their journals after two leases."""
    nodes = random.sample(system.running, 2)
    for node in nodes:
        system.kill(node)
    await asyncio.sleep(LONG_LEASES * system.lease_seconds)
    for node in nodes:
        system.start_again(node)
    return Victims(frozenset(node.name for node in nodes))


async def lose_while_joining(system: RingSystem, random: Random) -> Victims:
    """Add a node, and lose another one with its disk while slots move to it; then stop the new one in order."""
    node = random.choice(system.running)
    new = system.add_node()
    await asyncio.to_thread(new.wait_ready)
    await asyncio.sleep(random.uniform(0.0, 0.3))
    system.kill(node)
    shutil.rmtree(node.journal)
    await asyncio.sleep(LONG_LEASES * system.lease_seconds)
    system.start_again(node)
    await asyncio.to_thread(system.wait_until_whole, STORM_SECONDS)
    await asyncio.to_thread(system.remove_node, new)
    system.nodes.remove(new)
    return _victims(node)


async def join_and_leave_storm(system: RingSystem, random: Random) -> Victims:
    """Add two nodes, and stop them and others in order, one after the other, as fast as they stop and start."""
    new = [system.add_node() for _ in range(2)]
    for node in new:
        await asyncio.to_thread(node.wait_ready)
    for node in random.sample([each for each in system.running if each not in new], 2):
        await asyncio.to_thread(system.remove_node, node)
        system.start_again(node)
    for node in new:
        await asyncio.to_thread(system.remove_node, node)
        system.nodes.remove(node)
    return NO_VICTIMS


async def storm(system: RingSystem, random: Random) -> Victims:
    """SIGKILL, SIGTERM and SIGSTOP, each node by itself, again and again."""
    nodes = system.running
    await disturb(system, random, STORM_SECONDS / 2)
    return Victims(frozenset(node.name for node in nodes))


async def disturb(system: RingSystem, random: Random, seconds: float) -> int:
    """Disturb each node by itself for so long; return how often it was done. All nodes run afterwards.

    A node is stopped in order only while two others run. Otherwise an absent node could return when all that have
    tombstones have left, and a deleted key with it, as docs/consistency.md says.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    running = len(system.running)

    async def one(node: ProxiedNode, random: Random) -> int:
        nonlocal running
        number = 0
        while True:
            await asyncio.sleep(random.uniform(0.5, 4.0))
            if loop.time() >= until:
                return number
            number += 1
            what = random.choice(("kill", "stop", "pause", "restart"))
            if what == "stop" and running < 3:
                what = "restart"
            running -= 1
            if what == "pause":
                node.pause()
                await asyncio.sleep(PAUSE_SECONDS)
                node.resume()
                running += 1
                continue
            if what == "stop":
                await asyncio.to_thread(system.remove_node, node)
            else:
                system.kill(node)
                await asyncio.sleep(random.uniform(0.0, 3.0) if what == "kill" else 0.0)
            system.start_again(node)
            running += 1

    return sum(await asyncio.gather(*(one(node, Random(random.random())) for node in system.running)))


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
    "node lost with its disk": lose,
    "two nodes killed, and back later": kill_two,
    "node lost with its disk while another joins": lose_while_joining,
    "nodes join, leave and return": join_and_leave_storm,
    "nodes killed, stopped and paused all the time": storm,
}
# Of these several nodes are lost at one time: no bound is promised for how long a key is unavailable.
SEVERAL = ("two nodes killed, and back later", "nodes killed, stopped and paused all the time")
# Their losses are expected where the nodes keep no copies, and are not worth a round.
NEED_COPIES = ("node lost with its disk", "node lost with its disk while another joins")


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
