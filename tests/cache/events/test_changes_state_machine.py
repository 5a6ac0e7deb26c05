"""Events against a model: when each change of S3 has been reported, once or more, a fresh entry is what S3 has.

The entries of this node never get old, so that nothing but events corrects them. Reads and writes are in flight
while others change the object and while events arrive, late, again, and in any order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from milena_cache.events.changes import ForeignChanges, ReportedChange, state_of
from milena_cache.membership.ownership import Ownership
from milena_cache.memory.freshness import Freshness
from milena_cache.objects.object_store import Ref
from milena_common.api.errors import MilenaError
from tests.cache.node_under_test import SOON, NodeUnderTest
from tests.cache.servers.resp.server_under_test import ME, ring
from tests.support.fake_clock import run_ready_tasks
from tests.support.s3.memory_store import etag_of

T = TypeVar("T")

KEY = "k"
VALUES = st.sampled_from([b"a", b"b", b"c"])
ENDLESS = Freshness(ttl=1e9, jitter=0, grace=0, keep=0, stale_if_error=0, negative_ttl=1e9)


class ReportingObjects(dict[Ref, bytes]):
    """The objects of S3, with an event for each change: the ETag without quotes, "" after a removal."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def __setitem__(self, ref: Ref, value: bytes) -> None:
        super().__setitem__(ref, value)
        self.events.append(etag_of(value).strip('"'))

    def pop(self, ref: Ref, *default: Any) -> Any:
        if ref in self:
            self.events.append("")
        return super().pop(ref, *default)

    def __delitem__(self, ref: Ref) -> None:
        super().__delitem__(ref)
        self.events.append("")


class EventMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.calls: set[asyncio.Task[Any]] = set()
        self.run(self.made())

    async def made(self) -> None:
        self.t = NodeUnderTest(freshness=ENDLESS, mode="back", delay=0.1)
        # An attempt of a write waits for the gate as long as the rules say, and not for some real milliseconds.
        self.t.parts.write_through._put_timeout = 600.0
        self.objects = self.t.store.objects = ReportingObjects()
        ownership = Ownership(ME)
        ownership.update(ring(ME))
        parts = self.t.parts
        self.changes = ForeignChanges(parts.entries, parts.s3_locks, parts.blocks.memory, ownership)
        await self.t.start()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.come_to_rest(reverse=False)
            self.run(self.t.stop())
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def begin(self, call: Coroutine[Any, Any, Any]) -> None:
        async def caller() -> None:
            with suppress(MilenaError):
                await call

        self.calls.add(self.loop.create_task(caller()))
        self.run(run_ready_tasks())

    @rule(value=VALUES)
    def another_program_puts(self, value: bytes) -> None:
        self.t.in_s3(KEY, value)

    @rule()
    def another_program_deletes(self) -> None:
        self.t.in_s3(KEY, None)

    @rule()
    def read(self) -> None:
        self.begin(self.t.get(KEY))

    @rule(value=VALUES, durability=st.sampled_from(["back", "through"]))
    def put(self, value: bytes, durability: Any) -> None:
        self.begin(self.t.put(KEY, value, durability=durability))

    @rule(durability=st.sampled_from(["back", "through"]))
    def delete(self, durability: Any) -> None:
        self.begin(self.t.delete(KEY, durability=durability))

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.t.clock.advance(seconds))

    @rule(name=st.sampled_from(["read_gate", "write_gate"]), is_open=st.booleans())
    def replies_of_s3(self, name: str, is_open: bool) -> None:
        gate = getattr(self.t.store, name)
        gate.set() if is_open else gate.clear()
        self.run(run_ready_tasks())

    @rule(value=VALUES, theirs=VALUES, at=st.integers(0, 50))
    def another_program_changes_what_is_being_written(self, value: bytes, theirs: bytes, at: int) -> None:
        self.replies_of_s3("write_gate", False)
        self.put(value, "through")
        self.another_program_puts(theirs)
        self.an_event_arrives(at, False)
        self.an_event_arrives(at, False)
        self.replies_of_s3("write_gate", True)

    def apply(self, event: str) -> None:
        self.changes.apply([ReportedChange(KEY.encode(), state_of(event))])
        self.run(run_ready_tasks())

    @rule(at=st.integers(0, 50), again=st.booleans())
    def an_event_arrives(self, at: int, again: bool) -> None:
        events = self.objects.events
        if not events:
            return
        at %= len(events)
        self.apply(events[at] if again else events.pop(at))

    @rule(reverse=st.booleans())
    def come_to_rest(self, reverse: bool) -> None:
        self.t.store.read_gate.set()
        self.t.store.write_gate.set()
        self.run(self.finish())
        events = list(self.objects.events)
        self.objects.events.clear()
        for event in reversed(events) if reverse else events:
            self.apply(event)
        assert self.objects.events == []
        entry = self.t.memory.peek(KEY.encode())
        if entry is not None:
            assert entry.value == self.t.s3_has(KEY)
        reply = self.run(self.t.get(KEY))
        assert reply.entry.value == self.t.s3_has(KEY), reply.outcome

    async def finish(self) -> None:
        while self.calls:
            await asyncio.gather(*self.calls)
            self.calls.clear()
        flushing = asyncio.create_task(self.t.flush(timeout=SOON))
        while not flushing.done():
            await self.t.clock.advance(0.1)
        assert (await flushing).remaining == 0


EventMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
TestEventMachine = EventMachine.TestCase
