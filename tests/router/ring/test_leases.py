"""Leases in time, and the log lines that operators search for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from milena_common.api.errors import FailedPrecondition
from milena_common.cluster.slot_assignment import Member
from milena_router.ring.leases import Leases
from milena_router.ring.membership import Change, Membership
from tests.support.fake_clock import FakeClock

LEASE = 5.0
A, B = Member("node-a:50051", "id-a"), Member("node-b:50051", "id-b")


class Harness:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.changes: list[Change] = []
        self.leases = Leases(Membership(LEASE, self.clock.now()), self.clock, self.changes.append)


@pytest.fixture
async def harness(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Harness]:
    caplog.set_level(logging.INFO)
    made = Harness()
    task = asyncio.create_task(made.leases.run())
    await made.clock.advance(0)
    yield made
    assert not task.done()
    task.cancel()


async def test_each_change_is_one_line_with_node_reason_epoch_and_ring_size(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    epoch = int(harness.clock.wall() * 1000)
    harness.leases.join(A, "b", 0)
    harness.leases.join(B, "b", 0)
    harness.leases.join(Member(B.address, "id-new"), "b", 0)
    harness.leases.leave(B.address)
    assert caplog.messages == [
        f"Join node=node-a:50051 reason='new' epoch={epoch} ring_size=1",
        f"Join node=node-b:50051 reason='new' epoch={epoch + 1} ring_size=2",
        f"Join node=node-b:50051 reason='restarted' epoch={epoch + 2} ring_size=2",
        f"Leave node=node-b:50051 reason='left' epoch={epoch + 3} ring_size=1",
    ]
    caplog.clear()
    await harness.clock.advance(LEASE + 1)
    (line,) = caplog.messages
    assert line.startswith("Leave node=node-a:50051 reason='lease expired' epoch=")
    assert line.endswith("ring_size=0")


async def test_what_changes_nothing_is_not_logged(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    assert harness.leases.join(A, "b", 0)
    caplog.clear()
    assert not harness.leases.join(A, "b", 0)
    assert not harness.leases.leave(B.address)
    with pytest.raises(FailedPrecondition):
        harness.leases.join(B, "another", 0)
    assert caplog.messages == []
    assert len(harness.changes) == 1


async def test_a_lease_ends_within_a_tenth_of_its_length(harness: Harness) -> None:
    harness.leases.join(A, "b", 0)
    await harness.clock.advance(LEASE - 0.01)
    assert harness.leases.ring.members == (A,)
    await harness.clock.advance(LEASE / 10 + 0.02)
    assert harness.leases.ring.members == ()


async def test_a_node_that_renews_stays(harness: Harness) -> None:
    harness.leases.join(A, "b", 0)
    ring = harness.leases.ring
    for _ in range(12):
        await harness.clock.advance(LEASE / 3)
        harness.leases.join(A, "b", ring.epoch)
    assert harness.leases.ring is ring


async def test_a_router_that_was_stopped_keeps_its_nodes(harness: Harness) -> None:
    harness.leases.join(A, "b", 0)
    await harness.clock.advance(1)
    harness.clock.tick(600)
    await harness.clock.advance(0)
    assert harness.leases.ring.members == (A,)
    harness.leases.join(A, "b", 0)
    assert len(harness.changes) == 1


async def test_every_change_is_announced_when_the_ring_is_already_new(harness: Harness) -> None:
    rings = []
    leases = Leases(Membership(LEASE, 0.0), harness.clock, lambda change: rings.append((change.ring, leases.ring)))
    leases.join(A, "b", 0)
    leases.leave(A.address)
    assert len(rings) == 2
    assert all(announced is current for announced, current in rings)


async def test_changes_are_counted(harness: Harness) -> None:
    harness.leases.join(A, "b", 0)
    harness.leases.join(B, "b", 0)
    harness.leases.leave(A.address)
    await harness.clock.advance(LEASE * 2)
    assert harness.leases.changes == {"join": 2, "leave": 2, "forget": 0, "move": 0, "copy": 0}
