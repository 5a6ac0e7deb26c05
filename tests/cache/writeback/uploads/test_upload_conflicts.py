"""What becomes of a write whose object another writer has changed, by policy, and of one whose caller named it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from milena_cache.objects.object_store import Fault
from milena_cache.objects.version import ABSENT, Version, stamped
from milena_cache.writeback.uploads.reconcile import name_beside
from milena_cache.writeback.uploads.upload import Conflict, UploadOutcome, UploadResult
from tests.cache.writeback.uploads.uploader_under_test import ALREADY, DONE, OURS, REF, Harness, delete, put
from tests.support.s3.memory_store import WithMetadata


async def test_overwrite_writes_over_the_other_writer_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    for value in (b"ours", None):
        harness = Harness()
        write = put(base=harness.holds(b"seen"), value=value)
        theirs = harness.holds(b"foreign")
        with caplog.at_level(logging.WARNING):
            result = await harness.upload(write)
        assert result == (DONE if value else UploadResult(UploadOutcome.DELETED, ABSENT))
        assert harness.has == value
        assert harness.uploader.conflicts == {"overwrite": 1, "fail": 0, "keep-both": 0}
        assert f"conflict: {REF}: another writer wrote it (ETag {theirs}); overwritten with 5-7" in caplog.text


@pytest.mark.parametrize("foreign", [b"foreign", None])
async def test_fail_leaves_what_the_other_writer_did(foreign: bytes | None) -> None:
    harness = Harness()
    write = put(base=harness.holds(b"seen"), policy="fail")
    harness.holds(foreign)
    with pytest.raises(Conflict, match=r"conflict: another writer (deleted|wrote) it"):
        await harness.upload(write)
    assert harness.store.objects == ({REF: foreign} if foreign else {})
    assert harness.uploader.conflicts == {"overwrite": 0, "fail": 1, "keep-both": 0}


async def test_keep_both_writes_ours_beside(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness()
    write = put(base=harness.holds(b"seen"), policy="keep-both")
    theirs = harness.holds(b"foreign")
    beside = name_beside(REF, OURS)
    harness.store.reject = lambda _, ref: (
        Fault.TIMEOUT if ref == beside and beside not in harness.store.objects else None
    )
    await harness.fails(write)
    harness.store.reject = None
    assert await harness.upload(write) == UploadResult(UploadOutcome.KEPT_BESIDE, theirs)
    assert harness.store.objects == {REF: b"foreign", beside: b"ours"}
    kept = harness.store.objects[beside]
    assert isinstance(kept, WithMetadata)
    assert stamped(kept.metadata, beside) == OURS
    assert harness.uploader.conflicts == {"overwrite": 0, "fail": 0, "keep-both": 1}
    assert f"ours is kept as {beside}" in caplog.text


async def test_keep_both_with_nothing_to_keep_on_one_side() -> None:
    harness = Harness()
    write = delete(base=harness.holds(b"seen"), policy="keep-both")
    theirs = harness.holds(b"foreign")
    assert await harness.upload(write) == UploadResult(UploadOutcome.KEPT_BESIDE, theirs)
    assert harness.store.objects == {REF: b"foreign"}
    harness.holds(None)
    assert await harness.upload(put(base='"seen"', policy="keep-both")) == DONE
    assert (harness.store.objects, harness.uploader.conflicts["keep-both"]) == ({REF: b"ours"}, 2)


async def test_without_a_policy_whatever_is_there_may_be_overwritten() -> None:
    harness = Harness()
    harness.holds(b"foreign")
    assert await harness.upload(put(base='"seen"', policy=None)) == DONE
    harness.holds(b"foreign")
    assert await harness.upload(delete(base=ABSENT, policy=None)) == UploadResult(UploadOutcome.DELETED, ABSENT)
    assert sum(harness.uploader.conflicts.values()) == 0


# ---- a caller that named what it has seen


@pytest.mark.parametrize("version", [None, Version(5, 6), Version(4, 9)])
@pytest.mark.parametrize("seen", ['"seen"', ABSENT])
@pytest.mark.parametrize("policy", ["fail", None])
async def test_strict_is_rejected_by_anything_else_also_by_an_earlier_version_of_ours(
    version: Version | None, seen: Any, policy: Any
) -> None:
    harness = Harness()
    there = harness.holds(b"there", version)
    with pytest.raises(Conflict) as rejected:
        await harness.upload(put(base=seen, strict=True, policy=policy))
    assert str(rejected.value) == f"another writer wrote it (ETag {there})"
    assert harness.has == b"there"
    assert sum(harness.uploader.conflicts.values()) == 0  # the caller gets the error


async def test_strict_is_rejected_where_the_object_is_gone() -> None:
    harness = Harness()
    with pytest.raises(Conflict, match=r"^another writer deleted it$"):
        await harness.upload(put(base='"seen"', strict=True))
    assert harness.has is None


@pytest.mark.parametrize("version", [None, Version(5, 6)])
async def test_strict_over_what_was_named(version: Version | None) -> None:
    harness = Harness()
    assert await harness.upload(put(base=harness.holds(b"seen", version), strict=True)) == DONE
    harness.holds(None)
    assert await harness.upload(put(base=ABSENT, strict=True)) == DONE
    assert harness.requested == ["put", "put"]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.SERVER])
async def test_strict_is_not_rejected_by_its_own_write(known: bool, fault: Fault) -> None:
    harness = Harness()
    write = put(base=harness.holds(b"seen") if known else ABSENT, strict=True)
    harness.store.fail(fault, after_effect=True)
    await harness.fails(write)
    assert await harness.upload(write) == ALREADY
