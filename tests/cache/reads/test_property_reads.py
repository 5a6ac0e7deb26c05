"""What S3 keeps with an object is that of the version that is returned, whatever memory has."""

from __future__ import annotations

import pytest

from milena_cache.objects.names import Object
from milena_cache.objects.object_store import Fault, Ref
from milena_common.api.errors import OriginUnavailable
from milena_common.api.properties import Properties
from tests.cache.node_under_test import BUCKET, SOON, NodeUnderTest
from tests.support.s3.memory_store import WithMetadata


async def read(t: NodeUnderTest, key: str = "k") -> Properties | None:
    """The properties of the version that a read of the node has."""
    target: Object = t.object(key)
    reply = await t.get(key)
    found = t.parts.property_reads.find(target, reply.entry.etag, reply.outcome, 0, dirty=reply.dirty)
    return found or await t.parts.property_reads.read(target, reply.entry.etag, SOON, 0)


def foreign(t: NodeUnderTest, value: bytes, **metadata: str) -> None:
    t.store.objects[Ref(BUCKET, "k")] = WithMetadata(value, metadata)


async def test_properties_are_read_once_while_they_are_fresh() -> None:
    t = NodeUnderTest()
    foreign(t, b"1", own="a", **{"milena-version": "1-1", "milena-lineage": "0" * 16})
    for _ in range(3):
        found = await read(t)
        assert found is not None
        assert found.metadata == {"own": "a"}, "Milena's own metadata is not shown"
    assert t.store.count("head") == 1


async def test_another_version_has_other_properties() -> None:
    t = NodeUnderTest()
    foreign(t, b"1", own="a")
    await read(t)
    foreign(t, b"2", own="b")
    await t.clock.advance(101)
    reply = await t.get("k")  # within its grace: the old version
    assert reply.entry.value == b"1"
    assert await t.parts.property_reads.read(t.object("k"), reply.entry.etag, SOON, 0) is None


async def test_a_write_of_the_same_bytes_with_other_metadata_is_seen() -> None:
    t = NodeUnderTest()
    for own in ("a", "b"):
        await t.writes.put(t.object("k"), b"same", SOON, durability="through", metadata={"own": own})
        found = await read(t)
        assert found is not None
        assert found.metadata == {"own": own}


async def test_a_dirty_write_has_the_time_of_its_acknowledgement_and_nothing_else() -> None:
    t = NodeUnderTest(mode="back", delay=50)
    await t.start()
    foreign(t, b"1", own="a")
    await t.put("k", b"2")
    written_at = t.corrected.wall()
    await t.clock.advance(7)
    assert await read(t) == Properties(pytest.approx(written_at, abs=0.01))  # type: ignore[arg-type]
    assert t.store.count("head") == 0
    await t.stop()


async def test_properties_that_are_known_are_returned_while_s3_fails() -> None:
    t = NodeUnderTest()
    foreign(t, b"1", own="a")
    await read(t)
    t.store.down = Fault.SERVER
    await t.clock.advance(115)
    found = await read(t)
    assert found is not None
    assert found.metadata == {"own": "a"}


async def test_properties_that_are_not_known_are_an_error_while_s3_fails() -> None:
    t = NodeUnderTest()
    foreign(t, b"1")
    reply = await t.get("k")
    t.store.down = Fault.SERVER
    with pytest.raises(OriginUnavailable):
        await t.parts.property_reads.read(t.object("k"), reply.entry.etag, SOON, 0)
