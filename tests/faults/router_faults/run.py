"""Coordination. Rounds of load with one fault of a router, of etcd or of a node each, and what came of them.

Every key has clients through the routers, straight to the nodes, and of the Redis protocol. Values are checked for
linearizability. Of faults that lose no node, no round may keep a key unavailable for more than 2 s, and of others
for more than a lease besides; on a machine that starves the nodes for a lease, owners change, which is shown.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from milena_client import MilenaError
from tests.faults.harness.load import read_all
from tests.faults.harness.system import journal_of
from tests.faults.ring_faults.load import DIRECT, REDIS, REDIS_REGISTERS, ROUTER, RingLoad
from tests.faults.router_faults.system import RoutersSystem

REGISTERS, THROUGH, COUNTERS = 9, 3, 3
BEFORE_SECONDS = AFTER_SECONDS = 1.5
UNAVAILABLE_SECONDS = 2.0
WHOLE_SECONDS = 60.0
READ_SECONDS = 15.0
LEASE_SECONDS = 3.0
_WAYS = (ROUTER, DIRECT, REDIS)


async def router_killed(system: RoutersSystem, random: Random) -> None:
    router = random.choice(system.routers)
    router.kill()
    await asyncio.sleep(2 * system.lease_seconds)
    router.restart()


async def router_stopped_in_order(system: RoutersSystem, random: Random) -> None:
    router = random.choice(system.routers)
    router.terminate()
    await asyncio.to_thread(router.wait)
    router.restart()


async def router_paused(system: RoutersSystem, random: Random) -> None:
    router = random.choice(system.routers)
    router.pause()
    await asyncio.sleep(2 * system.lease_seconds)
    router.resume()


async def leader_killed(system: RoutersSystem, random: Random) -> None:
    leader = await asyncio.to_thread(system.leader)
    leader.kill()
    await asyncio.sleep(2 * system.lease_seconds)
    await asyncio.to_thread(leader.restart)


async def leader_paused(system: RoutersSystem, random: Random) -> None:
    leader = await asyncio.to_thread(system.leader)
    leader.stop_running()
    await asyncio.sleep(2 * system.lease_seconds)
    leader.go_on()


async def all_of_etcd_killed(system: RoutersSystem, random: Random) -> None:
    for member in system.etcd.members:
        member.kill()
    await asyncio.sleep(3 * system.lease_seconds)
    for member in system.etcd.members:
        member.start()


async def router_killed_without_etcd(system: RoutersSystem, random: Random) -> None:
    for member in system.etcd.members:
        member.kill()
    router = random.choice(system.routers)
    router.kill()
    await asyncio.sleep(2 * system.lease_seconds)
    for member in system.etcd.members:
        member.start()
    router.restart()


async def node_killed(system: RoutersSystem, random: Random) -> None:
    node = random.choice(system.nodes)
    node.kill()
    await asyncio.sleep(2 * system.lease_seconds)
    node.restart()


async def node_lost(system: RoutersSystem, random: Random) -> None:
    node = random.choice(system.nodes)
    node.kill()
    shutil.rmtree(journal_of(node))
    await asyncio.sleep(2 * system.lease_seconds)
    node.restart()


async def node_paused(system: RoutersSystem, random: Random) -> None:
    node = random.choice(system.nodes)
    node.pause()
    await asyncio.sleep(2 * system.lease_seconds)
    node.resume()


async def node_and_leader_killed(system: RoutersSystem, random: Random) -> None:
    leader, node = await asyncio.to_thread(system.leader), random.choice(system.nodes)
    leader.kill()
    node.kill()
    await asyncio.sleep(2 * system.lease_seconds)
    await asyncio.to_thread(leader.restart)
    node.restart()


FAULTS: dict[str, Callable[[RoutersSystem, Random], Awaitable[None]]] = {
    "a router killed": router_killed,
    "a router stopped in order": router_stopped_in_order,
    "a router paused for two leases": router_paused,
    "etcd's leader killed": leader_killed,
    "etcd's leader paused for two leases": leader_paused,
    "all of etcd killed": all_of_etcd_killed,
    "all of etcd and a router killed": router_killed_without_etcd,
    "a node killed": node_killed,
    "a node lost with its disk": node_lost,
    "a node paused for two leases": node_paused,
    "etcd's leader and a node killed": node_and_leader_killed,
}
# A node is lost by these: its keys are unavailable until its lease is over.
OF_NODES = ("a node killed", "a node lost with its disk", "a node paused for two leases")
# Of two faults at one time: no bound is promised.
SEVERAL = ("etcd's leader and a node killed",)


@dataclass(slots=True)
class Round:
    """What came of one round.

    ways: the longest seconds without a successful call for a key, by the way of the calls
    whole: seconds after the end of the fault until the ring was whole
    moved: True if a node was lost, or slots moved
    violations: keys that fail, and what else is wrong, as a line each
    """

    fault: str
    key: float = 0.0
    ways: dict[str, float] = field(default_factory=dict)
    whole: float = 0.0
    acknowledged: int = 0
    moved: bool = False
    violations: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """All rounds, and the tracebacks in the logs."""

    rounds: list[Round] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        return [f"{each.fault}: {line}" for each in self.rounds for line in each.violations]

    def too_long(self) -> list[str]:
        """Return a line for each round of a single fault in which a key was unavailable for too long."""
        return [
            f"{each.fault}: {each.key:.2f} s"
            for each in self.rounds
            if each.fault not in SEVERAL
            and each.key > UNAVAILABLE_SECONDS + (LEASE_SECONDS if each.fault in OF_NODES else 0.0)
        ]


def run(
    directory: Path,
    seconds: float,
    seed: int,
    faults: Sequence[str] = tuple(FAULTS),
    members: int = 3,
    show: Callable[[str], object] = print,
) -> Outcome:
    """Run every fault at least once, in random order, and so on for `seconds`. Blocks until it is done."""
    logging.getLogger("redis").setLevel(logging.CRITICAL)
    with RoutersSystem(directory, LEASE_SECONDS, members) as system:
        return asyncio.run(_run(system, seconds, seed, faults, show))


async def _run(
    system: RoutersSystem, seconds: float, seed: int, faults: Sequence[str], show: Callable[[str], object]
) -> Outcome:
    random, outcome = Random(seed), Outcome()
    until = time.monotonic() + seconds
    while True:
        for fault in random.sample(faults, len(faults)):
            outcome.rounds.append(await _round(system, fault, random, f"{seed}/{len(outcome.rounds) + 1}", show))
            if time.monotonic() >= until and len(outcome.rounds) >= len(faults):
                outcome.defects = system.defects()
                return outcome


async def _round(
    system: RoutersSystem, fault: str, random: Random, prefix: str, show: Callable[[str], object]
) -> Round:
    load = RingLoad(
        system.address,
        {node.resp: node.resp for node in system.nodes},
        (
            [f"{prefix}/back/{each}" for each in range(REGISTERS)],
            [f"{prefix}/through/{each}" for each in range(THROUGH)],
            [f"{prefix}/counter/{each}" for each in range(COUNTERS)],
        ),
        prefix,
    )
    found = Round(fault)
    owners = await asyncio.to_thread(system.owners, load.keys)
    epoch = await asyncio.to_thread(system.epoch)
    async with load.running():
        await asyncio.sleep(BEFORE_SECONDS)
        began = time.monotonic()
        await FAULTS[fault](system, random)
        try:
            found.whole = await asyncio.to_thread(system.wait_until_whole, WHOLE_SECONDS)
        except TimeoutError as error:
            found.violations.append(f"it does not become whole again: {error}")
        await asyncio.sleep(AFTER_SECONDS)
        finished = time.monotonic()
    try:
        await read_all(system.address, load.history, "a read at the end", READ_SECONDS)
    except MilenaError as error:
        found.violations.append(f"a key cannot be read: {error}")
    found.violations += [str(wrong) for wrong in load.history.wrong]
    found.violations += [f"{key}: {text}" for key, text in load.counters.wrong().items()]
    if await asyncio.to_thread(system.owners, load.keys) != owners:
        found.moved = True
    if await asyncio.to_thread(system.epoch) < epoch:
        found.violations.append(f"the epoch fell below {epoch:.0f}")
    available = load.availability
    found.key = available.longest_of_a_key(load.keys, began, finished)
    for way in _WAYS:
        keys = load.registers[:REDIS_REGISTERS] if way == REDIS else [*load.registers, *load.through]
        found.ways[way] = available.longest_of_a_key(keys, began, finished, way)
    found.acknowledged = load.history.acknowledged + load.counters.acknowledged
    ways = ", ".join(f"{way} {seconds:.2f}" for way, seconds in found.ways.items())
    show(
        f"{fault}: {found.acknowledged} writes acknowledged, {len(found.violations)} violations, a key unavailable "
        f"for {found.key:.2f} s ({ways}), whole after {found.whole:.1f} s"
        f"{', owners changed' * found.moved}; {dict(load.errors)}"
    )
    for line in found.violations:
        show(f"  {line}")
    return found
