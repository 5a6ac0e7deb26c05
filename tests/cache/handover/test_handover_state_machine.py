"""Moves against a model: whatever is interrupted, lost or repeated, one node at most serves a slot, and what it
serves is the last acknowledged write.

Writes of all classes, deletes and expiries go on while the slots of three keys move between three nodes; commits
and uploads are held up, links break before and after a command, moves are aborted, and nodes receive rings late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from milena_cache.objects.expiry import NEVER, is_expired
from milena_common.api.errors import MilenaError
from milena_common.cluster.slots import slot_of
from tests.cache.handover.nodes_under_test import Cluster
from tests.support.fake_clock import run_ready_tasks

T = TypeVar("T")
Value = bytes | None

KEYS = ("a", "b", "c")
NAMES = ("x", "y", "z")
COMMANDS = [b"WRITES", b"RELEASE", b"MILENA.PEEK"]


class HandoverMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.number = 0

        async def make() -> Cluster:
            return await Cluster(*NAMES, delay=0.3, max_entries=2, concurrency=2).start()

        self.c = self.run(make())
        self.kept: dict[str, tuple[Value, float]] = dict.fromkeys(KEYS, (None, NEVER))
        # Writes whose outcome is not known.
        self.perhaps: dict[str, list[tuple[Value, float]]] = {key: [] for key in KEYS}
        self.writing: list[tuple[str, Value, float, asyncio.Task[Any]]] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def since(self, key: str) -> tuple[str, int] | None:
        serving = self.c.server_of(key)
        assert len(serving) <= 1, f"{serving} serve {key}"
        return (serving[0], self.c[serving[0]].ownership.owned_since(key.encode())) if serving else None

    @rule(
        key=st.sampled_from(KEYS),
        durability=st.sampled_from(["back", "back", "memory", "through"]),
        deletes=st.booleans(),
        lifetime=st.sampled_from([0.0, 0.0, 0.0, 0.5, 5.0]),
        waits=st.booleans(),
    )
    def write(self, key: str, durability: Any, deletes: bool, lifetime: float, waits: bool) -> None:
        found = self.since(key)
        if found is None or any(key == other for other, *_ in self.writing):
            return
        name, since = found
        self.number += 1
        value = None if deletes else b"%d" % self.number
        expires_at = self.c.clock.wall() + lifetime if lifetime and not deletes else NEVER
        t = self.c[name].t

        async def begin() -> asyncio.Task[Any]:
            if value is None:
                task = asyncio.ensure_future(t.delete(key, since, durability=durability, timeout=0.05))
            else:
                task = asyncio.ensure_future(
                    t.put(key, value, since, durability=durability, expires_at=expires_at, timeout=0.05)
                )
            if waits:
                await asyncio.wait((task,), timeout=0.2)
            else:
                await asyncio.sleep(0)
            return task

        self.writing.append((key, value, expires_at, self.run(begin())))
        self.collect()

    def collect(self) -> None:
        """Take note of the writes that have finished."""
        for each in list(self.writing):
            key, value, expires_at, task = each
            if not task.done():
                continue
            self.writing.remove(each)
            if task.cancelled() or isinstance(task.exception(), MilenaError):
                self.perhaps[key].append((value, expires_at))
            else:
                task.result()
                self.kept[key] = value, expires_at
                self.perhaps[key] = []

    @rule(key=st.sampled_from(KEYS))
    def read(self, key: str) -> None:
        found = self.since(key)
        if found is None:
            return
        name, since = found

        async def get() -> Value:
            return (await self.c[name].t.get(key, since, 0.05)).entry.value

        self.collect()
        in_flight = [(value, at) for other, value, at, _ in self.writing if other == key]
        wall = self.c.clock.wall()
        possible = [self.kept[key], *self.perhaps[key], *in_flight]
        try:
            value = self.run(get())
        except MilenaError:
            return
        self.collect()
        allowed = [None if is_expired(at, wall) else each for each, at in possible]
        assert value in allowed, f"{key} at {name}: {value!r}, allowed {allowed}"

    @rule(
        key=st.sampled_from(KEYS), to=st.sampled_from(NAMES), notified=st.sets(st.sampled_from(NAMES), min_size=1)
    )
    def plan(self, key: str, to: str, notified: set[str]) -> None:
        slot = slot_of(key.encode())
        if slot not in self.c.ring.pending:
            self.c.ring.plan([slot], to)
            self.run(self.c.publish(*sorted(notified)))

    @rule(notified=st.sets(st.sampled_from(NAMES)))
    def renew(self, notified: set[str]) -> None:
        async def renew() -> None:
            taken = [each for member in self.c.members.values() for each in member.ownership.taken]
            if taken:
                self.c.ring.publish(taken)
            if notified:
                await self.c.publish(*sorted(notified))

        self.run(renew())

    @rule()
    def abort(self) -> None:
        """A router aborts a move only if neither side can have carried it out: no release has been sent."""
        for slot in list(self.c.ring.pending):
            released = any(slot in member.handover.source.stopped for member in self.c.members.values())
            if released or any(
                first <= slot <= last
                for member in self.c.members.values()
                for first, last, _ in member.ownership.taken
            ):
                return
        if self.c.ring.pending:
            self.c.ring.abort()
            self.run(self.c.publish())

    @rule(command=st.sampled_from(COMMANDS), how=st.sampled_from(["before", "after"]))
    def break_link(self, command: bytes, how: str) -> None:
        if len(self.c.broken) < 3:
            self.c.broken.append((command, how))

    @rule(name=st.sampled_from(NAMES), stands=st.booleans())
    def hold_up_commits(self, name: str, stands: bool) -> None:
        gate = self.c[name].t.disk.gate
        gate.clear() if stands else gate.set()
        self.run(run_ready_tasks())

    @rule(stands=st.booleans())
    def hold_up_s3(self, stands: bool) -> None:
        self.c.store.gate.clear() if stands else self.c.store.gate.set()
        self.run(run_ready_tasks())

    @rule(seconds=st.sampled_from([0.002, 0.02, 0.1, 0.5, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.c.clock.advance(seconds))
        self.collect()

    @invariant()
    def at_most_one_node_serves_a_slot(self) -> None:
        for key in KEYS:
            assert len(self.c.server_of(key)) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "c"):
            return

        async def recover() -> None:
            self.c.broken.clear()
            self.c.store.gate.set()
            for member in self.c.members.values():
                member.t.disk.gate.set()
            await run_ready_tasks()
            await self.c.publish()
            for _ in range(60):
                await self.c.clock.advance(0.1)
                if not await self.c.publish_taken() and not self.c.ring.pending:
                    break
            await self.c.clock.advance(1)

        self.run(recover())
        self.collect()
        assert not self.c.ring.pending, "an interrupted move blocks later ones"
        for key in KEYS:
            assert self.since(key) is not None
            self.read(key)
        self.run(self.c.clock.advance(20))
        for key in KEYS:
            self.read(key)
        assert all(len(member.t.dirty) == 0 for member in self.c.members.values())
        self.run(self.c.stop())
        self.loop.close()


TestHandover = HandoverMachine.TestCase
TestHandover.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
