"""The present owner of a slot invalidates what another node wrote to S3."""

from __future__ import annotations

import pytest

from milena_cache.membership.late_writes import ATTEMPTS, PAUSE_SECONDS, REMEMBERED_SECONDS, LateWriteInvalidation
from milena_cache.membership.ownership import Ownership
from milena_cache.writeback.uploads.s3_belief import UNCONFIRMED
from milena_common.api.errors import NodeLost
from tests.cache.servers.resp.server_under_test import ME, ring
from tests.support.fake_clock import FakeClock, run_ready_tasks

OTHER = "127.0.0.1:50061"
FOO, BAR = b"foo", b"bar"  # slots 12182 and 5061


class Others:
    """The other nodes; the first `failures` calls of them fail."""

    def __init__(self) -> None:
        self.notifications: list[tuple[str, bytes]] = []
        self.failures = 0

    async def invalidate(self, address: str, key: bytes, timeout: float) -> None:
        self.notifications.append((address, key))
        if self.failures:
            self.failures -= 1
            raise NodeLost("gone")


class Harness:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.others = Others()
        self.ownership = Ownership(ME)
        self.ownership.update(ring(ME))
        self.moved = LateWriteInvalidation(self.ownership, self.others.invalidate, self.clock)

    def halves(self) -> None:
        """The upper half of the slots goes to the other node."""
        self.ownership.update(ring(ME, OTHER, epoch=2))
        self.moved.ring_changed()


@pytest.fixture
def harness() -> Harness:
    return Harness()


async def test_a_write_whose_slot_has_not_moved_sends_no_notification(harness: Harness) -> None:
    assert harness.moved.wrote(FOO, 1) is None
    harness.ownership.update(ring(ME, epoch=2))
    harness.moved.ring_changed()
    await run_ready_tasks()
    assert harness.others.notifications == []


async def test_a_write_that_ends_after_its_slot_moved_is_notified_before_it_is_acknowledged(
    harness: Harness,
) -> None:
    harness.halves()
    telling = harness.moved.wrote(FOO, 1)
    assert telling is not None
    await telling
    assert harness.others.notifications == [("127.0.0.1:50062", FOO)]


async def test_a_write_that_ended_just_before_the_node_knew_of_the_move_is_notified_when_it_does(
    harness: Harness,
) -> None:
    for key in (FOO, BAR, FOO):
        assert harness.moved.wrote(key, 1) is None
    harness.halves()
    await run_ready_tasks()
    assert harness.others.notifications == [("127.0.0.1:50062", FOO)]


async def test_writes_of_long_ago_are_not_remembered(harness: Harness) -> None:
    harness.moved.wrote(FOO, 1)
    harness.clock.tick(REMEMBERED_SECONDS + 1)
    harness.moved.wrote(BAR, 1)
    harness.halves()
    await run_ready_tasks()
    assert harness.others.notifications == []


async def test_a_write_by_a_newer_ring_than_the_node_knows_has_not_moved(harness: Harness) -> None:
    assert harness.moved.wrote(FOO, 7) is None


async def test_an_owner_that_cannot_be_reached_is_tried_again_and_then_the_log_says_so(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.halves()
    harness.others.failures = ATTEMPTS - 1
    telling = harness.moved.wrote(FOO, 1)
    for number in range(1, ATTEMPTS + 1):
        await harness.clock.advance(0)
        assert len(harness.others.notifications) == number, "not all at once: it may be there in a moment"
        await harness.clock.advance(PAUSE_SECONDS * number)
    assert telling is not None
    assert telling.done()
    assert harness.moved.notified == 1
    harness.others.failures = ATTEMPTS
    telling = harness.moved.wrote(FOO, 1)
    await harness.clock.advance(PAUSE_SECONDS * ATTEMPTS * ATTEMPTS)
    assert telling is not None
    assert telling.done()
    assert "may serve an older entry" in caplog.text
    assert harness.moved.notified == 1


async def test_a_write_from_before_a_restart_is_notified_to_the_present_owner_of_the_slot(harness: Harness) -> None:
    harness.halves()
    telling = harness.moved.wrote(FOO, UNCONFIRMED)
    assert telling is not None
    await telling
    assert harness.others.notifications[-1] == ("127.0.0.1:50062", FOO)


async def test_a_write_from_before_a_restart_is_notified_when_the_ring_is_known(harness: Harness) -> None:
    harness.ownership = Ownership(ME)
    harness.moved = LateWriteInvalidation(harness.ownership, harness.others.invalidate, harness.clock)
    assert harness.moved.wrote(FOO, UNCONFIRMED) is None
    harness.halves()
    await run_ready_tasks()
    assert harness.others.notifications == [("127.0.0.1:50062", FOO)]
