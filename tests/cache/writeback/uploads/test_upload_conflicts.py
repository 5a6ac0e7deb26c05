"""What becomes of a write whose object somebody else has changed, by policy, and of one whose caller named it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from milena_cache.objects.object_store import Fault
from milena_cache.objects.version import ABSENT, Version, stamped
from milena_cache.writeback.uploads.reconcile import name_beside
from milena_cache.writeback.uploads.upload import Conflict, UploadOutcome, UploadResult
from tests.cache.writeback.uploads.rig import ALREADY, DONE, OURS, REF, Rig, delete, put
from tests.support.s3.memory_store import WithMetadata


async def test_overwrite_writes_over_the_other_writer_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    for value in (b"ours", None):
        rig = Rig()
        write = put(base=rig.holds(b"seen"), value=value)
        theirs = rig.holds(b"foreign")
        with caplog.at_level(logging.WARNING):
            result = await rig.upload(write)
        assert result == (DONE if value else UploadResult(UploadOutcome.DELETED, ABSENT))
        assert rig.has == value
        assert rig.uploader.conflicts == {"overwrite": 1, "fail": 0, "keep-both": 0}
        assert f"conflict: {REF}: another writer wrote it (ETag {theirs}); overwritten with 5-7" in caplog.text


@pytest.mark.parametrize("foreign", [b"foreign", None])
async def test_fail_leaves_what_the_other_writer_did(foreign: bytes | None) -> None:
    rig = Rig()
    write = put(base=rig.holds(b"seen"), policy="fail")
    rig.holds(foreign)
    with pytest.raises(Conflict, match=r"conflict: another writer (deleted|wrote) it"):
        await rig.upload(write)
    assert rig.store.objects == ({REF: foreign} if foreign else {})
    assert rig.uploader.conflicts == {"overwrite": 0, "fail": 1, "keep-both": 0}


async def test_keep_both_writes_ours_beside(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    write = put(base=rig.holds(b"seen"), policy="keep-both")
    theirs = rig.holds(b"foreign")
    beside = name_beside(REF, OURS)
    rig.store.refuse = lambda _, ref: Fault.TIMEOUT if ref == beside and beside not in rig.store.objects else None
    await rig.fails(write)
    rig.store.refuse = None
    assert await rig.upload(write) == UploadResult(UploadOutcome.KEPT_BESIDE, theirs)
    assert rig.store.objects == {REF: b"foreign", beside: b"ours"}
    kept = rig.store.objects[beside]
    assert isinstance(kept, WithMetadata)
    assert stamped(kept.metadata, beside) == OURS
    assert rig.uploader.conflicts == {"overwrite": 0, "fail": 0, "keep-both": 1}
    assert f"ours is kept as {beside}" in caplog.text


async def test_keep_both_with_nothing_to_keep_on_one_side() -> None:
    rig = Rig()
    write = delete(base=rig.holds(b"seen"), policy="keep-both")
    theirs = rig.holds(b"foreign")
    assert await rig.upload(write) == UploadResult(UploadOutcome.KEPT_BESIDE, theirs)
    assert rig.store.objects == {REF: b"foreign"}
    rig.holds(None)
    assert await rig.upload(put(base='"seen"', policy="keep-both")) == DONE
    assert (rig.store.objects, rig.uploader.conflicts["keep-both"]) == ({REF: b"ours"}, 2)


async def test_without_a_policy_whatever_is_there_may_be_overwritten() -> None:
    rig = Rig()
    rig.holds(b"foreign")
    assert await rig.upload(put(base='"seen"', policy=None)) == DONE
    rig.holds(b"foreign")
    assert await rig.upload(delete(base=ABSENT, policy=None)) == UploadResult(UploadOutcome.DELETED, ABSENT)
    assert sum(rig.uploader.conflicts.values()) == 0


# ---- a caller that named what it has seen


@pytest.mark.parametrize("version", [None, Version(5, 6), Version(4, 9)])
@pytest.mark.parametrize("seen", ['"seen"', ABSENT])
@pytest.mark.parametrize("policy", ["fail", None])
async def test_strict_is_refused_by_anything_else_also_by_an_earlier_version_of_ours(
    version: Version | None, seen: Any, policy: Any
) -> None:
    rig = Rig()
    there = rig.holds(b"there", version)
    with pytest.raises(Conflict) as refused:
        await rig.upload(put(base=seen, strict=True, policy=policy))
    assert str(refused.value) == f"another writer wrote it (ETag {there})"
    assert rig.has == b"there"
    assert sum(rig.uploader.conflicts.values()) == 0  # the caller asked, and is told


async def test_strict_is_refused_where_the_object_is_gone() -> None:
    rig = Rig()
    with pytest.raises(Conflict, match=r"^another writer deleted it$"):
        await rig.upload(put(base='"seen"', strict=True))
    assert rig.has is None


@pytest.mark.parametrize("version", [None, Version(5, 6)])
async def test_strict_over_what_was_named(version: Version | None) -> None:
    rig = Rig()
    assert await rig.upload(put(base=rig.holds(b"seen", version), strict=True)) == DONE
    rig.holds(None)
    assert await rig.upload(put(base=ABSENT, strict=True)) == DONE
    assert rig.asked == ["put", "put"]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.SERVER])
async def test_strict_is_not_refused_by_its_own_write(known: bool, fault: Fault) -> None:
    rig = Rig()
    write = put(base=rig.holds(b"seen") if known else ABSENT, strict=True)
    rig.store.fail(fault, after_effect=True)
    await rig.fails(write)
    assert await rig.upload(write) == ALREADY
