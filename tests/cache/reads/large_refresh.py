"""The time for which a refresh, or a job, on many keys holds up the event loop of a node.

    python -m tests.cache.reads.large_refresh [KEYS [ACTION...]]

fills the memory of a node with KEYS (1,000,000) entries, and drops or invalidates them by their prefix while
another task waits for its step again and again, and puts an entry in each. The longest processor time between two
steps is printed, how many are over 5 ms, and that of the whole. ACTION: refresh, purge, invalidate; all of them.
"""

from __future__ import annotations

import asyncio
import sys
from time import thread_time

from milena_cache.eviction.policies import EVICTION_POLICIES
from milena_cache.jobs.sweep import Plan
from milena_cache.memory.lru import Memory
from milena_cache.objects.entry import Entry
from tests.cache.node_under_test import NodeUnderTest

KEYS = 1_000_000
MIB = 2**20


async def change(t: NodeUnderTest, action: str) -> int:
    """Refresh, purge or invalidate all keys below the prefix, and return how many entries were changed."""
    if action == "refresh":
        return (await t.node.refresher.matching(t.buckets.files_below("", b"data/"))).refreshed
    plan = Plan(action, "", b"data/", dry_run=False)
    while not (done := await t.parts.sweeps.advance("0" * 32, plan, 0)).done:
        pass
    t.parts.sweeps.close()
    return done.changed


async def measure(keys: int, policy: str, action: str) -> None:
    """Fill a memory, change its entries, and print what it took."""
    t = NodeUnderTest(max_entries=2 * keys, max_bytes=1000 * MIB)
    memory: Memory = t.memory
    if policy != "lru":
        # The node's own is lru; its order is replaced while it is empty.
        memory._order = Memory(2 * keys, 1000 * MIB, policy)._order
        memory._order._memory = memory
    now = t.clock.now()
    for number in range(keys):
        memory.store(b"data/%012d" % number, Entry(b"v" * 32, '"e"', now, 0))
    steps: list[float] = []

    async def others() -> None:
        began = thread_time()
        while True:
            await asyncio.sleep(0)
            now_at = thread_time()
            steps.append(now_at - began)
            memory.store(b"other/%d" % len(steps), Entry(b"v", '"e"', now, 0))
            began = thread_time()

    task = asyncio.create_task(others())
    await asyncio.sleep(0)
    began = thread_time()
    changed = await change(t, action)
    seconds = thread_time() - began
    task.cancel()
    assert changed == keys
    steps.sort()
    late = sum(step > 0.005 for step in steps)
    within = steps[len(steps) * 999 // 1000] * 1000
    print(
        f"{action}, {policy}: {keys:,} keys in {seconds:.2f} s, {len(steps):,} steps; "
        f"longest {steps[-1] * 1000:.1f} ms, 99.9 % within {within:.1f} ms, {late} over 5 ms"
    )


def main() -> None:
    for action in sys.argv[2:] or ("refresh", "purge", "invalidate"):
        for policy in EVICTION_POLICIES:
            asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else KEYS, policy, action))


if __name__ == "__main__":
    main()
