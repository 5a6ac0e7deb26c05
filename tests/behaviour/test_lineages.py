"""Two clusters on one bucket, or one after another: no write is dropped because of the other's greater version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.journal.version_allocator import MAX_LEARNED_EPOCH, MAX_LEARNED_SEQ
from milena_cache.objects.lineage import (
    LINEAGE_DIGITS,
    MAX_EARLIER,
    UNNAMED,
    Lineages,
    is_lineage,
    lineage_of_cluster,
)
from milena_cache.objects.object_store import Fault, Ref
from milena_cache.objects.version import Version, lineage_of, stamp
from milena_common.api.errors import ConditionFailed, OriginUnavailable
from tests.cache.node_under_test import BUCKET, LINEAGE, OTHER_LINEAGE, NodeUnderTest
from tests.support.s3.memory_store import WithMetadata, etag_of, metadata_of

REF = Ref(BUCKET, "k")
POLICIES = ["overwrite", "fail", "keep-both"]
lineages = st.integers(0, 16**LINEAGE_DIGITS - 1).map(lambda number: f"{number:0{LINEAGE_DIGITS}x}")


async def started(**options: object) -> NodeUnderTest:
    t = NodeUnderTest(**{"mode": "back", **options})  # type: ignore[arg-type]
    await t.start()
    return t


def other_cluster_writes(
    t: NodeUnderTest, value: bytes = b"theirs", lineage: str = OTHER_LINEAGE, ahead: int = 10**9
) -> str:
    """Another cluster, whose clock is far ahead, has written `k`; the ETag."""
    versions = t.journal.versions
    version = Version(versions.epoch + ahead, versions.seq + ahead)
    t.store.objects[REF] = WithMetadata(value, stamp(version, REF, lineage))
    return etag_of(value)


@pytest.mark.parametrize("lineage", [OTHER_LINEAGE, UNNAMED])
@pytest.mark.parametrize("seen", [False, True])
async def test_a_write_through_writes_over_what_another_cluster_wrote(seen: bool, lineage: str) -> None:
    t = await started()
    other_cluster_writes(t, lineage=lineage)
    if seen:
        await t.get("k")
    ack = await t.put("k", b"ours", durability="through")
    assert t.s3_has("k") == b"ours"
    assert ack.etag == etag_of(b"ours")
    assert await t.outcome("k") == ("hit", b"ours")


async def test_a_delete_through_deletes_what_another_cluster_wrote() -> None:
    t = await started()
    other_cluster_writes(t)
    await t.delete("k", durability="through")
    assert t.s3_has("k") is None


async def test_a_condition_on_what_another_cluster_wrote_holds_or_fails() -> None:
    t = await started()
    etag = other_cluster_writes(t)
    with pytest.raises(ConditionFailed):
        await t.put("k", b"ours", durability="through", if_match=etag_of(b"other"))
    with pytest.raises(ConditionFailed):
        await t.put("k", b"ours", durability="through", if_none_match="*")
    assert t.s3_has("k") == b"theirs"
    await t.put("k", b"ours", durability="through", if_match=etag)
    assert t.s3_has("k") == b"ours"


@pytest.mark.parametrize("lineage", [OTHER_LINEAGE, UNNAMED])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("known", [False, True])
async def test_an_upload_over_another_clusters_greater_version_is_a_conflict(
    known: bool, policy: str, lineage: str, caplog: pytest.LogCaptureFixture
) -> None:
    t = await started(policy=policy)
    if known:
        await t.put("k", b"before")
        await t.flush()
    await t.put("k", b"ours")
    other_cluster_writes(t, lineage=lineage)
    await t.clock.advance(30)
    assert t.uploader.conflicts[policy] == 1
    assert t.writeback.results["superseded"] == 0
    assert "conflict" in caplog.text
    if policy == "overwrite":
        assert t.s3_has("k") == b"ours"
        assert len(t.dirty) == 0
    elif policy == "fail":
        assert t.s3_has("k") == b"theirs"
        assert [entry.key for entry in t.dirty.dead()] == [b"k"]
        assert await t.outcome("k") == ("hit", b"ours")
    else:
        assert t.s3_has("k") == b"theirs"
        assert b"ours" in t.store.objects.values()


@pytest.mark.parametrize("lineage", [OTHER_LINEAGE, UNNAMED])
async def test_a_write_of_what_was_read_from_another_cluster_is_no_conflict(lineage: str) -> None:
    t = await started(policy="fail")
    other_cluster_writes(t, lineage=lineage)
    await t.get("k")
    await t.put("k", b"ours")
    await t.flush()
    assert t.s3_has("k") == b"ours"
    assert not any(t.uploader.conflicts.values())


async def test_a_greater_version_of_another_cluster_is_exceeded_afterwards_also_after_a_restart() -> None:
    t = await started(policy="fail")
    other_cluster_writes(t)
    await t.get("k")
    theirs = t.journal.versions.epoch
    other_cluster_writes(t, ahead=0)
    await t.put("l", b"ours", durability="through")
    t = await t.crash()
    assert t.journal.versions.epoch >= theirs
    await t.put("k", b"ours")
    await t.flush()
    assert t.s3_has("k") == b"ours"


async def test_a_later_version_of_the_own_cluster_is_not_learned() -> None:
    """A node that has lost a slot and does not know it must not exceed what the new owner writes next."""
    t = await started()
    before = t.journal.versions.epoch
    other_cluster_writes(t, lineage=LINEAGE)
    await t.get("k")
    assert t.journal.versions.epoch == before


async def test_a_forged_version_does_not_use_up_the_numbers() -> None:
    t = await started()
    for version in (Version(MAX_LEARNED_EPOCH + 1, 1), Version(1, MAX_LEARNED_SEQ + 1), Version(2**64, 2**64)):
        t.store.objects[REF] = WithMetadata(b"x", stamp(version, REF, OTHER_LINEAGE))
        t.memory.remove(b"k")
        await t.get("k")
    await t.put("k", b"ours")
    await t.flush()
    assert t.s3_has("k") == b"ours"


async def test_within_a_cluster_the_later_version_stays() -> None:
    t = await started()
    await t.put("k", b"older")
    new_owner = t.another()
    await new_owner.start()
    await new_owner.put("k", b"later", owned_since=t.journal.versions.epoch + 10, durability="through")
    await t.clock.advance(30)
    assert t.s3_has("k") == b"later"
    assert t.writeback.results["superseded"] == 1


async def test_every_object_carries_the_lineage_of_its_writer() -> None:
    t = await started()
    await t.put("back", b"v")
    await t.flush()
    await t.put("through", b"v", durability="through")
    for key in ("back", "through"):
        assert lineage_of(metadata_of(t.store.objects[Ref(BUCKET, key)])) == LINEAGE


async def test_the_lineage_of_the_ring_is_taken_over_and_kept_with_the_earlier_one() -> None:
    t = await started()
    t.journal.joined(OTHER_LINEAGE)
    await t.journal.sync_barrier()
    after = Lineages(t.disk.metadata(), "0" * LINEAGE_DIGITS)
    assert after.own == OTHER_LINEAGE
    assert after.comparable(LINEAGE, late=False)
    assert not after.comparable("0" * LINEAGE_DIGITS, late=False)
    await t.stop()


async def test_what_the_ring_shows_to_be_the_same_cluster_is_ordered() -> None:
    t = await started()
    t.journal.joined(OTHER_LINEAGE)
    await t.put("k", b"older")
    other_cluster_writes(t)
    await t.clock.advance(30)
    assert t.s3_has("k") == b"theirs"
    assert t.writeback.results["superseded"] == 1


async def test_a_record_from_before_a_start_waits_for_the_ring_where_a_stranger_wrote() -> None:
    t = await started()
    t.store.down = Fault.CONNECT
    await t.put("k", b"older")
    t = await t.crash()
    t.store.down = None
    other_cluster_writes(t)
    with pytest.raises(OriginUnavailable, match="ring"):
        await t.get("k")
    await t.clock.advance(30)
    assert t.s3_has("k") == b"theirs"
    assert len(t.dirty) == 1
    t.journal.joined(OTHER_LINEAGE)  # a node that joined while this one was away
    await t.clock.advance(30)
    assert t.s3_has("k") == b"theirs"
    assert len(t.dirty) == 0
    assert await t.outcome("k") == ("miss", b"theirs")


async def test_a_record_from_before_a_start_is_ordered_with_what_has_no_lineage() -> None:
    t = await started()
    t.store.down = Fault.CONNECT
    await t.put("k", b"older")
    t = await t.crash()
    t.store.down = None
    other_cluster_writes(t, lineage=UNNAMED)
    assert await t.outcome("k") == ("miss", b"theirs")
    await t.clock.advance(30)
    assert t.s3_has("k") == b"theirs"


@given(st.lists(lineages, max_size=30))
def test_the_metadata_restore_every_lineage(rings: list[str]) -> None:
    own = Lineages({}, LINEAGE)
    for lineage in rings:
        own.joined(lineage)
    again = Lineages(own.metadata(), OTHER_LINEAGE)
    assert (again.own, again.kin, again.late_kin) == (own.own, own.kin, own.late_kin)
    assert all(is_lineage(lineage) for lineage in own.kin)
    assert own.own == (rings or [LINEAGE])[-1]
    assert len(own.kin) <= MAX_EARLIER + 1


@given(st.text(max_size=100))
def test_every_cluster_has_a_lineage(cluster_id: str) -> None:
    assert is_lineage(lineage_of_cluster(cluster_id))
    assert lineage_of_cluster(cluster_id) != lineage_of_cluster(cluster_id + "x")


def test_without_lineages_nothing_is_recorded_or_stamped() -> None:
    unnamed = Lineages({}, UNNAMED)
    assert unnamed.metadata() == {}
    assert unnamed.comparable(UNNAMED, late=False)
    assert "milena-lineage" not in stamp(Version(1, 2), REF, unnamed.own)
