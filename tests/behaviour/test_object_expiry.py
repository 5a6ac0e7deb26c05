"""Objects that end by themselves, through a whole node: they are then absent for every reader."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from milena_cache.app import build_servers, node_identity
from milena_cache.objects.expiry import EXPIRES, NEVER
from milena_cache.objects.object_store import Fault, Ref
from milena_cache.objects.version import Version, stamp
from milena_cache.writeback.expired_objects import MAX_REMOVALS, PAUSE_SECONDS
from milena_common.api.durability import DURABILITIES, Durability
from milena_common.api.errors import ConditionFailed, InvalidRequest, OriginUnavailable
from milena_common.api.pb import cache_server_pb2 as pb
from tests.cache.node_under_test import BUCKET, FRESHNESS, LINEAGE, SOON, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks
from tests.support.s3.memory_store import WithMetadata, etag_of

CLASSES = pytest.mark.parametrize("durability", DURABILITIES)
REF = Ref(BUCKET, "k")


async def started(**options: object) -> NodeUnderTest:
    t = NodeUnderTest(mode="back", **options)  # type: ignore[arg-type]
    await t.start()
    return t


def in_seconds(t: NodeUnderTest, seconds: float) -> float:
    return t.clock.wall() + seconds


@CLASSES
async def test_an_expired_object_is_absent_for_every_reader(durability: Durability) -> None:
    t = await started()
    end = in_seconds(t, 5)
    await t.put("k", b"v", durability=durability, expires_at=end)
    reply = await t.get("k")
    assert (reply.outcome, reply.entry.value, reply.entry.expires_at) == ("hit", b"v", end)
    await t.flush()
    assert t.expires_at("k") == end
    assert (await t.get("k")).entry.expires_at == end
    t.clock.tick(4.999)
    assert await t.outcome("k") == ("hit", b"v")
    t.clock.tick(0.001)
    other = t.another()
    assert await other.outcome("k") == ("miss", None)
    assert await t.outcome("k") == ("negative_hit", None)
    reply, size = await t.node.exists(t.object("k"), SOON)
    assert (reply.entry.value, size) == (None, 0)
    await t.stop()


@CLASSES
async def test_before_its_upload_too(durability: Durability) -> None:
    t = await started()
    t.store.down = Fault.CONNECT if durability != "through" else None
    await t.put("k", b"v", durability=durability, expires_at=in_seconds(t, 5))
    t.clock.tick(5)
    reply = await t.get("k")
    assert (reply.outcome, reply.entry.value, reply.dirty) == ("negative_hit", None, durability != "through")
    assert reply.entry.etag == ""
    await t.stop()


async def test_the_expiry_survives_a_restart() -> None:
    t = await started(delay=1000)
    end = in_seconds(t, 5)
    await t.put("k", b"v", expires_at=end)
    t = await t.crash()
    assert (await t.get("k")).entry.expires_at == end
    t.clock.tick(5)
    t = await t.crash()
    assert await t.outcome("k") == ("negative_hit", None)
    await t.flush()
    assert t.s3_has("k") is None
    await t.stop()


async def test_the_time_of_day_counts() -> None:
    t = await started()
    await t.put("k", b"v", expires_at=in_seconds(t, 5))
    t.clock.set_wall(t.clock.wall() + 5)
    assert (await t.get("k")).entry.value is None
    await t.stop()


@CLASSES
async def test_a_put_without_an_end_takes_it_away(durability: Durability) -> None:
    t = await started()
    await t.put("k", b"v", durability=durability, expires_at=in_seconds(t, 5))
    await t.flush()
    await t.put("k", b"v", durability=durability)
    assert (await t.get("k")).entry.expires_at is NEVER
    await t.flush()
    assert t.expires_at("k") is NEVER
    t.clock.tick(6)
    assert await t.outcome("k") == ("hit", b"v")
    assert await t.another().outcome("k") == ("miss", b"v")
    await t.stop()


@CLASSES
async def test_a_put_that_has_expired_already_is_a_delete(durability: Durability) -> None:
    t = await started()
    await t.put("k", b"old", durability="through")
    ack = await t.put("k", b"v", durability=durability, expires_at=in_seconds(t, 0))
    assert ack.etag == ""
    assert await t.outcome("k") == ("negative_hit", None)
    await t.flush()
    assert t.s3_has("k") is None
    await t.stop()


async def test_an_older_value_does_not_come_back() -> None:
    t = await started()
    await t.put("k", b"old", durability="through")
    await t.put("k", b"new", expires_at=in_seconds(t, 0.5))
    t.clock.tick(0.5)
    t.store.calls.clear()
    await t.flush()
    assert t.s3_has("k") is None
    assert [operation for operation, _ in t.store.calls] == ["head", "delete"]
    assert await t.outcome("k") == ("negative_hit", None)
    await t.stop()


async def test_an_expired_put_over_an_unread_object_deletes_it() -> None:
    t = await started()
    t.in_s3("k", b"old")
    await t.put("k", b"new", expires_at=in_seconds(t, 0.5))
    t.clock.tick(0.5)
    await t.flush()
    assert t.s3_has("k") is None
    await t.stop()


async def test_an_expired_put_over_an_absent_object_sends_no_request() -> None:
    t = await started()
    assert await t.outcome("k") == ("miss", None)
    await t.put("k", b"v", expires_at=in_seconds(t, 0.5))
    t.clock.tick(0.5)
    t.store.calls.clear()
    assert (await t.flush()).flushed == 1
    assert t.store.calls == []
    assert t.writeback.results["expired"] == 1
    assert await t.outcome("k") == ("miss", None)
    await t.journal.sync_barrier()
    assert not t.disk.committed.records
    await t.stop()


async def test_an_upload_that_may_have_happened_is_undone() -> None:
    t = await started()
    await t.get("k")
    t.store.fail(Fault.TIMEOUT, after_effect=True)
    await t.put("k", b"v", expires_at=in_seconds(t, 1.05))
    await t.clock.advance(1.01)
    assert t.s3_has("k") == b"v"
    await t.clock.advance(0.5)
    await t.flush()
    assert t.s3_has("k") is None
    await t.stop()


@pytest.mark.parametrize("policy", ["overwrite", "fail", "keep-both"])
async def test_a_foreign_object_is_not_deleted_in_place_of_an_expired_one(policy: str) -> None:
    t = await started(policy=policy)
    t.in_s3("k", b"old")
    await t.get("k")
    await t.put("k", b"ours", expires_at=in_seconds(t, 0.5))
    t.in_s3("k", b"theirs")
    t.clock.tick(0.5)
    assert (await t.flush()).failed == 0
    assert t.s3_has("k") == b"theirs"
    assert await t.outcome("k") == ("miss", b"theirs")
    await t.stop()


async def test_a_read_that_finds_an_expired_object_has_it_removed_once() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v", in_seconds(t, 5))
    await t.get("k")
    t.clock.tick(5)
    t.store.calls.clear()
    t.store.gate.clear()
    for _ in range(10):
        assert await t.outcome("k") == ("negative_hit", None)
    t.store.gate.set()
    await run_ready_tasks()
    assert [operation for operation, _ in t.store.calls] == ["head", "delete"]
    assert t.s3_has("k") is None
    assert t.writes.reaper.removed == 1
    t.clock.tick(FRESHNESS.negative_ttl)
    assert await t.outcome("k") == ("miss", None)


async def test_a_read_from_s3_notices_it_too() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v", in_seconds(t, 0))
    assert await t.outcome("k") == ("miss", None)
    await run_ready_tasks()
    assert t.s3_has("k") is None
    t.in_s3("k", b"v", in_seconds(t, 0))
    t.clock.tick(10)
    reply, _ = await t.node.exists(t.object("k"), SOON)
    assert (reply.outcome, reply.entry.value) == ("miss", None)
    await run_ready_tasks()
    assert t.s3_has("k") is None


async def test_what_was_written_in_between_is_not_removed() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v", in_seconds(t, 5))
    await t.get("k")
    t.clock.tick(5)
    t.in_s3("k", b"v")  # the same bytes, without an end
    assert await t.outcome("k") == ("negative_hit", None)
    await run_ready_tasks()
    assert await t.outcome("k") == ("miss", b"v")


async def test_nor_what_is_written_while_it_is_looked_at() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v", in_seconds(t, 5))
    await t.get("k")
    t.clock.tick(5)
    await t.get("k")
    describe, looked = t.store.describe, asyncio.Event()

    async def then_another_client_writes(ref: Ref) -> object:
        found = await describe(ref)
        t.in_s3("k", b"theirs")
        looked.set()
        return found

    t.store.describe = then_another_client_writes  # type: ignore[assignment, method-assign]
    await looked.wait()
    await run_ready_tasks()
    assert t.s3_has("k") == b"theirs"
    assert await t.outcome("k") == ("miss", b"theirs")


async def test_a_write_that_comes_meanwhile_stays() -> None:
    t = await started()
    t.in_s3("k", b"v", in_seconds(t, 5))
    await t.get("k")
    t.clock.tick(5)
    t.store.write_gate.clear()
    await t.get("k")
    await t.store.arrived("delete")
    await t.put("k", b"new")
    t.store.write_gate.set()
    await run_ready_tasks()
    assert await t.outcome("k") == ("hit", b"new")
    await t.flush()
    assert t.s3_has("k") == b"new"
    assert t.uploader.conflicts == dict.fromkeys(t.uploader.conflicts, 0)
    await t.stop()


async def test_while_s3_fails_nothing_is_removed_and_nothing_comes_back() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v", in_seconds(t, 5))
    await t.get("k")
    t.clock.tick(5)
    t.store.down = Fault.CONNECT
    t.store.calls.clear()
    for _ in range(5):
        assert await t.outcome("k") == ("negative_hit", None)
        await run_ready_tasks()
    assert t.store.count("head") == 1, "it is tried again after a pause"
    t.clock.tick(PAUSE_SECONDS)
    await t.get("k")
    await run_ready_tasks()
    assert t.store.count("head") == 2
    t.clock.tick(FRESHNESS.ttl + FRESHNESS.grace)
    with pytest.raises(OriginUnavailable):
        await t.get("k")


async def test_removals_are_bounded() -> None:
    t = NodeUnderTest(max_entries=1000)
    keys = [f"k{number}" for number in range(MAX_REMOVALS + 10)]
    for key in keys:
        await t.put(key, b"v", expires_at=in_seconds(t, 5))
    t.clock.tick(5)
    t.store.calls.clear()
    t.store.gate.clear()
    for key in keys:
        assert await t.outcome(key) == ("negative_hit", None)
    await run_ready_tasks()
    assert t.store.count("head") == MAX_REMOVALS
    t.store.gate.set()
    await run_ready_tasks()
    for key in keys:
        await t.get(key)
    await run_ready_tasks()
    assert not t.store.objects


@CLASSES
async def test_conditions_know_that_it_is_not_there(durability: Durability) -> None:
    t = await started()
    await t.put("k", b"v", durability=durability, expires_at=in_seconds(t, 5))
    t.clock.tick(5)
    with pytest.raises(ConditionFailed):
        await t.put("k", b"w", durability=durability, if_match=etag_of(b"v"))
    await t.put("k", b"w", durability=durability, if_none_match="*")
    await t.flush()
    assert t.s3_has("k") == b"w"
    assert t.dirty.dead_letters == 0
    await t.stop()


@CLASSES
async def test_also_where_only_s3_knows(durability: Durability) -> None:
    t = await started()
    t.in_s3("k", b"v", in_seconds(t, 0))
    with pytest.raises(ConditionFailed):
        await t.put("k", b"w", durability=durability, if_match=etag_of(b"v"))
    t.in_s3("k", b"v", in_seconds(t, 0))
    await t.put("k", b"w", durability=durability, if_none_match="*")
    await t.flush()
    assert t.s3_has("k") == b"w"
    assert t.dirty.dead_letters == 0
    await t.stop()


async def test_the_same_bytes_with_another_end_are_another_object() -> None:
    """Their ETag is the same, so a conditional GET would not show it."""
    t = NodeUnderTest()
    t.in_s3("k", b"v", in_seconds(t, 300))
    await t.get("k")
    t.in_s3("k", b"v", in_seconds(t, 500))
    t.clock.tick(120)
    assert await t.outcome("k") == ("revalidated", b"v")
    t.clock.tick(200)
    assert (await t.get("k")).entry.value == b"v"


async def test_another_owner_may_have_given_it_an_end_or_taken_it_away() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    await t.get("k", owned_since=1)
    t.in_s3("k", b"v", in_seconds(t, 20))
    reply = await t.get("k", owned_since=3)
    assert (reply.outcome, reply.entry.expires_at) == ("revalidated", in_seconds(t, 20))
    t.clock.tick(20)
    assert (await t.get("k", owned_since=3)).entry.value is None


async def test_a_write_without_a_reply_may_have_changed_the_expiry() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    await t.get("k")
    t.store.fail(Fault.TIMEOUT, after_effect=True)
    with pytest.raises(OriginUnavailable):
        await t.put("k", b"v", expires_at=in_seconds(t, 20))
    assert (await t.get("k")).entry.expires_at == in_seconds(t, 20)


async def test_a_late_upload_does_not_put_its_end_in_the_place_of_a_later_one() -> None:
    t = await started()
    await t.put("k", b"v", durability="through")
    await t.put("k", b"v", expires_at=in_seconds(t, 100))
    t.store.down = Fault.CONNECT
    await t.clock.advance(10)
    later = stamp(Version(t.journal.versions.epoch + 1, 1), REF, LINEAGE)
    t.store.objects[REF] = WithMetadata(b"v", later)  # the key's next owner took the end away
    t.store.down = None
    await t.clock.advance(60)
    await t.flush()
    assert t.expires_at("k") is NEVER
    t.clock.tick(100)
    assert (await t.get("k")).entry.value == b"v"
    await t.stop()


async def test_what_expired_after_it_was_written_over_is_no_conflict() -> None:
    t = await started(policy="fail")
    await t.put("k", b"v", durability="through", expires_at=in_seconds(t, 5))
    await t.put("k", b"w")
    t.clock.tick(5)
    t.in_s3("k", None)  # another node noticed the end
    assert await t.flush() == (0, 0, 1)
    assert t.s3_has("k") == b"w"
    await t.stop()


async def test_a_dead_letter_ends_as_well() -> None:
    t = await started()
    t.store.reject = lambda operation, _: Fault.REJECTED if operation == "put" else None
    await t.put("k", b"v", expires_at=in_seconds(t, 5))
    await t.flush()
    assert t.dirty.dead_letters == 1
    assert await t.outcome("k") == ("hit", b"v")
    t.clock.tick(5)
    assert await t.outcome("k") == ("negative_hit", None)
    await t.parts.dead_letters.retry(None)
    assert (await t.flush()).failed == 0
    await t.stop()


async def test_a_copied_object_and_a_malformed_end_end_nothing() -> None:
    t = NodeUnderTest()
    copied = {**stamp(Version(1, 1), Ref(BUCKET, "original")), EXPIRES: "1000"}
    t.store.objects[REF] = WithMetadata(b"copy", copied)
    t.store.objects[Ref(BUCKET, "odd")] = WithMetadata(
        b"odd", {**stamp(Version(1, 1), Ref(BUCKET, "odd")), EXPIRES: "tomorrow"}
    )
    assert await t.outcome("k") == ("miss", b"copy")
    assert await t.outcome("odd") == ("miss", b"odd")


class RunningServer:
    """The gRPC methods of a node, whose replies are read."""

    def __init__(self, t: NodeUnderTest) -> None:
        identity = node_identity(t.config, t.parts, "n")
        servers = build_servers(t.config, t.parts, "n:1", identity, lambda: False)
        self._methods = {name: method for name, (_, _, method) in servers.grpc_methods.items()}

    async def get(self, **fields: Any) -> pb.GetResponse:
        reply = await self._methods["Get"](pb.GetRequest(key=b"k", **fields), SOON)
        return pb.GetResponse.FromString(reply)

    async def put(self, ttl_ms: int) -> None:
        await self._methods["Put"](pb.PutRequest(key=b"k", value=b"v", ttl_ms=ttl_ms), SOON)


async def test_over_grpc() -> None:
    t = NodeUnderTest()
    server = RunningServer(t)
    await server.put(1500)
    assert (await server.get()).ttl_ms == 1500
    t.clock.tick(1.4)
    assert (await server.get(metadata_only=True)).ttl_ms == 100
    t.clock.tick(0.1)
    reply = await server.get()
    assert (reply.successful, reply.ttl_ms) == (False, 0)
    await server.put(0)
    assert (await server.get()).ttl_ms == 0
    with pytest.raises(InvalidRequest, match="ttl_ms"):
        await server.put(2**63)
