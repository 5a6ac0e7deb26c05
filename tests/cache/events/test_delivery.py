"""To which nodes the events of a message go, and which messages are done then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from milena_cache.events.changes import ForeignChanges, ReportedChange
from milena_cache.events.delivery import Delivery
from milena_cache.events.message import ObjectEvent
from milena_cache.membership.ownership import Ownership
from milena_cache.objects.names import Buckets
from milena_cache.objects.version import ABSENT
from milena_common.api.errors import MilenaError, NodeLost, NoNodes
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS
from tests.cache.node_under_test import BUCKET, NodeUnderTest
from tests.cache.servers.resp.server_under_test import ME, ring

OTHER, OTHER_RESP = "127.0.0.1:50061", "127.0.0.1:50062"
MINE, THEIRS = "bar", "foo"  # slots 5061 and 12182
HEARTBEAT = b".milena-heartbeat"


class Others:
    """The other nodes; those in `lost` do not reply."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.got: list[tuple[str, list[ReportedChange], float]] = []

    async def send_changes(self, address: str, changes: Any, heartbeat: float, timeout: float) -> None:
        if address in self.lost:
            raise NodeLost("gone")
        self.got.append((address, list(changes), heartbeat))


class Harness:
    def __init__(self, buckets: Buckets | None = None) -> None:
        self.t = NodeUnderTest()
        self.ownership = Ownership(ME)
        self.others = Others()
        self.beats: list[float] = []
        parts = self.t.parts
        changes = ForeignChanges(parts.entries, parts.s3_locks, parts.blocks.memory, self.ownership)
        self.delivery = Delivery(
            self.ownership, self.others, changes, HEARTBEAT, self.beats.append, buckets or self.t.buckets
        )

    async def deliver(self, *messages: Sequence[ObjectEvent]) -> Sequence[bool]:
        return await self.delivery.deliver(messages)

    async def cached(self, key: str) -> None:
        self.t.in_s3(key, b"old")
        await self.t.get(key)


def event(key: str, etag: str = "e", at: float | None = 5.0, bucket: str = BUCKET) -> ObjectEvent:
    return ObjectEvent(bucket, key, etag, at)


@pytest.fixture
async def h() -> Harness:
    made = Harness()
    made.ownership.update(ring(ME, OTHER))
    return made


async def test_each_change_goes_to_the_owner_and_those_of_a_node_go_together(h: Harness) -> None:
    await h.cached(MINE)
    done = await h.deliver([event(MINE)], [event(THEIRS), event(MINE)], [event(THEIRS, "")])
    assert list(done) == [True, True, True]
    assert h.t.memory.peek(MINE.encode()) is None
    changes = [ReportedChange(THEIRS.encode(), "e"), ReportedChange(THEIRS.encode(), ABSENT)]
    assert h.others.got == [(OTHER_RESP, changes, 0.0)]


async def test_a_message_whose_owner_does_not_reply_is_not_done(h: Harness) -> None:
    h.others.lost.add(OTHER_RESP)
    done = await h.deliver([event(MINE)], [event(THEIRS)], [event(MINE), event(THEIRS)], [])
    assert list(done) == [True, False, False, True]
    assert isinstance(h.delivery.last_error, NodeLost)


async def test_without_a_ring_nothing_is_done(h: Harness) -> None:
    alone = Harness()
    assert list(await alone.deliver([event(MINE)], [])) == [False, True]
    assert isinstance(alone.delivery.last_error, NoNodes)


async def test_an_owner_without_the_redis_protocol_cannot_be_notified() -> None:
    h = Harness()
    node = MapNode(OTHER, "", OTHER)
    h.ownership.update(SlotMap(1, BUCKET, (node,), (MapRange(0, SLOTS - 1, node, 1),)))
    assert list(await h.deliver([event(MINE)])) == [False]
    assert isinstance(h.delivery.last_error, MilenaError)


async def test_a_fenced_node_applies_what_is_its_own(h: Harness) -> None:
    await h.cached(MINE)
    h.ownership.close("no lease")
    assert list(await h.deliver([event(MINE)])) == [False]  # another node may serve it by now
    assert h.t.memory.peek(MINE.encode()) is None


async def test_a_heartbeat_goes_to_all_nodes(h: Harness) -> None:
    done = await h.deliver([event(HEARTBEAT.decode(), at=7.0)], [event(HEARTBEAT.decode(), at=9.0)], [event(MINE)])
    assert list(done) == [True, True, True]
    assert h.beats == [9.0]
    assert [(address, heartbeat) for address, _, heartbeat in h.others.got] == [(OTHER_RESP, 9.0)]
    h.others.lost.add(OTHER_RESP)
    assert list(await h.deliver([event(HEARTBEAT.decode())], [event(MINE)])) == [False, True]


async def test_a_heartbeat_without_a_time_is_a_change_like_others(h: Harness) -> None:
    assert list(await h.deliver([event(HEARTBEAT.decode(), at=None)])) == [True]
    assert h.beats == []


async def test_what_no_request_can_name_is_done() -> None:
    h = Harness(Buckets(BUCKET, "below/", ("named",)))
    h.ownership.update(ring(ME, OTHER))
    await h.cached(MINE)
    foreign = [
        *(event(MINE), event("below/"), event("k", bucket="another")),
        *(event("below/" + "x" * 1100), event("below/\ud800"), event("", bucket="named")),
    ]
    assert list(await h.deliver(foreign)) == [True]
    assert h.delivery.foreign == len(foreign)
    assert list(await h.deliver([event("below/" + MINE)], [event("k", bucket="named")])) == [True, True]
    assert h.delivery.foreign == len(foreign)
    assert h.t.memory.peek(MINE.encode()) is None
