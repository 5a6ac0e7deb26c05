"""A holder against a model: whatever is lost or late, and whenever it is killed, it has what it confirmed.

An owner by hand writes and releases three keys. Its frames arrive, or are lost with the session, or arrive late;
the holder is killed with a commit in progress; and the owner is lost, so that the holder serves what it has, also
after it was killed in the middle of that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from milena_cache.copies.frames import Reply, Sender
from milena_cache.objects.version import Version
from tests.cache.copies.holders_under_test import HolderCluster, Owner
from tests.support.fake_clock import run_ready_tasks

T = TypeVar("T")

KEYS = ("a", "{a}b", "c")
# A write of a key, with its value; None where S3 has what the owner has.
Has = tuple[Version, bytes | None] | None
ARRIVES, LOST, TORN, TWICE = "arrives", "lost", "torn", "twice"


class HolderMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.number = 0
        self.run(self.begin_anew())

    async def begin_anew(self) -> None:
        self.c = HolderCluster("x", "y", holders="x", delay=1000.0)
        await self.c.start()
        self.owner = Owner(self.c)
        # What the owner has acknowledged; and what the holder may have instead, as no reply has come.
        self.has: dict[str, Has] = dict.fromkeys(KEYS)
        self.perhaps: dict[str, list[Has]] = {key: [] for key in KEYS}
        self.late: list[tuple[Sender, bytes]] = []
        await self.session()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def session(self) -> None:
        """Fill the holder: what it has then is what the owner has."""
        self.owner.reconnect()
        assert await self.owner.send("x", self.owner.begin()) is Reply.TAKEN
        for key, has in self.has.items():
            if has is not None:
                assert await self.owner.send("x", self.owner.record(key, has[1], has[0])) is Reply.TAKEN
        assert await self.owner.send("x", self.owner.end()) is Reply.TAKEN
        self.perhaps = {key: [] for key in KEYS}

    async def send(self, key: str, item: bytes, after: Has, fate: str) -> None:
        sender = self.owner.sender()
        if fate == TORN:
            self.c["x"].t.disk.gate.clear()
            sending = asyncio.ensure_future(self.owner.send("x", item, sender=sender))
            await run_ready_tasks()
            assert not sending.done()
            await self.c.crash("x")
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await self.c.publish()
            self.perhaps[key].append(after)
            self.late.clear()  # they were for the process before
            self.check()
            await self.session()
        elif fate == LOST:
            self.late.append((sender, item))
            self.perhaps[key].append(after)
            await self.session()
        else:
            assert await self.owner.send("x", item, sender=sender) is Reply.TAKEN
            self.has[key] = after
            if fate == TWICE:
                assert await self.owner.send("x", item, sender=sender) is Reply.UNKNOWN_SESSION

    @rule(
        key=st.sampled_from(KEYS),
        deletes=st.booleans(),
        fate=st.sampled_from([ARRIVES, ARRIVES, LOST, TORN, TWICE]),
    )
    def write(self, key: str, deletes: bool, fate: str) -> None:
        self.number += 1
        value = None if deletes else b"%d" % self.number
        version = self.owner.version()
        self.run(self.send(key, self.owner.record(key, value, version), (version, value), fate))

    @rule(key=st.sampled_from(KEYS), fate=st.sampled_from([ARRIVES, ARRIVES, TWICE]))
    def release(self, key: str, fate: str) -> None:
        self.run(self.send(key, self.owner.release(key), None, fate))

    @rule(key=st.sampled_from(KEYS))
    def take_back(self, key: str) -> None:
        """A write reaches this holder, and not another one: the key is as before."""
        version, before = self.owner.version(), self.has[key]

        async def work() -> None:
            assert await self.owner.send("x", self.owner.record(key, b"no", version)) is Reply.TAKEN
            item = (
                self.owner.release(key, version)
                if before is None
                else self.owner.record(key, before[1], before[0], restored=True)
            )
            assert await self.owner.send("x", item) is Reply.TAKEN

        self.run(work())

    @rule(place=st.integers(0, 9))
    def arrive_late(self, place: int) -> None:
        if self.late:
            sender, item = self.late[place % len(self.late)]
            assert self.run(self.owner.send("x", item, sender=sender)) is Reply.UNKNOWN_SESSION

    @rule()
    def crash(self) -> None:
        async def work() -> None:
            await self.c.crash("x")
            await self.c.publish()
            self.late.clear()
            self.check()
            await self.session()

        self.run(work())

    @rule(torn=st.booleans())
    def lose_the_owner(self, torn: bool) -> None:
        async def work() -> None:
            if torn:
                self.c["x"].t.disk.gate.clear()  # what the promotion writes is not on the disk
            self.c.ring.change("x", "", lost="o")
            self.c["x"].ring_changed(self.c.ring.map())
            await run_ready_tasks()
            if not torn:
                self.check_served()
            for _ in range(2):
                await self.c.crash("x")
                await self.c.publish()
                await self.c.clock.advance(0.1)
                self.check_served()
            await self.c.stop()
            await self.begin_anew()

        self.run(work())

    def check_served(self) -> None:
        member = self.c["x"]
        assert self.c.copies("x") == {}
        assert member.ownership.slots == 16384
        for key, has in self.has.items():
            entry = member.t.dirty.get(key.encode())
            if has is None:
                assert entry is None
                continue
            assert entry is not None
            assert entry.version == has[0]
            assert (None if entry.deleted else member.t.parts.dirty_writes.value(entry)) == has[1]

    @invariant()
    def it_has_what_was_confirmed(self) -> None:
        self.check()

    def check(self) -> None:
        copies = self.c.copies("x")
        for key in KEYS:
            allowed = [self.has[key], *self.perhaps[key]]
            found = ("copy", copies[key]) if key in copies else None
            assert found in [None if each is None else ("copy", each[1]) for each in allowed]

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.c.stop())
            self.loop.close()


HolderMachine.TestCase.settings = settings(
    max_examples=6, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
test_a_holder_has_what_was_confirmed = HolderMachine.TestCase
