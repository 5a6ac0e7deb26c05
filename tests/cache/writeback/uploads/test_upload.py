"""One write on its way to S3: what it asks for first, and what it makes of each reply."""

from __future__ import annotations

from typing import Any

import pytest

from milena_cache.objects.object_store import Fault, OriginFailure, Ref
from milena_cache.objects.version import ABSENT, UNKNOWN, Version, stamped
from milena_cache.writeback.uploads.upload import (
    LOOK_FIRST_BYTES,
    MAX_ROUNDS,
    Conflict,
    UploadOutcome,
    UploadResult,
)
from tests.cache.writeback.uploads.uploader_under_test import ALREADY, DONE, OURS, REF, Harness, delete, put
from tests.support.s3.memory_store import MemoryStore, WithMetadata, etag_of

# ---- the short ways


@pytest.mark.parametrize("base", [UNKNOWN, ABSENT])
async def test_a_new_object_is_created_with_one_request_and_bears_its_version(base: Any) -> None:
    harness = Harness()
    assert await harness.upload(put(base=base)) == DONE
    assert harness.requested == ["put"]
    assert isinstance(harness.has, WithMetadata)
    assert stamped(harness.has.metadata, REF) == OURS


async def test_a_known_object_is_written_over_with_one_request() -> None:
    harness = Harness()
    assert await harness.upload(put(base=harness.holds(b"theirs"))) == DONE
    assert (harness.requested, harness.has) == (["put"], b"ours")


@pytest.mark.parametrize("version", [None, Version(5, 6)])
async def test_where_nothing_was_known_what_is_there_is_adopted(version: Version | None) -> None:
    harness = Harness()
    harness.holds(b"there", version)
    assert await harness.upload(put(policy="fail")) == DONE
    assert (harness.requested, harness.has) == (["put", "head", "put"], b"ours")


async def test_a_large_value_is_not_sent_before_a_look() -> None:
    harness = Harness()
    for size, requested in ((LOOK_FIRST_BYTES, ["put"]), (LOOK_FIRST_BYTES + 1, ["head", "put"])):
        harness.holds(None)
        await harness.upload(put(value=bytes(size)))
        assert harness.requested == requested
    await harness.upload(put(value=bytes(LOOK_FIRST_BYTES + 1), base=harness.holds(b"known")))
    assert harness.requested == ["put"]


async def test_a_delete_looks_first_and_then_deletes_what_it_saw() -> None:
    harness = Harness()
    harness.holds(b"there")
    assert await harness.upload(delete()) == UploadResult(UploadOutcome.DELETED, ABSENT)
    assert (harness.requested, harness.has) == (["head", "delete"], None)
    assert await harness.upload(delete()) == UploadResult(UploadOutcome.ALREADY, ABSENT)
    assert harness.requested == ["head"]


async def test_a_later_version_is_never_overwritten_or_deleted() -> None:
    harness = Harness()
    later = harness.holds(b"later", Version(6, 1))
    for write in (put(), put(base='"old"'), put(base=ABSENT), put(policy=None), delete(), delete(base='"old"')):
        assert await harness.upload(write) == UploadResult(UploadOutcome.SUPERSEDED, later)
        assert harness.has == b"later"


async def test_nothing_is_begun_after_the_caller_gave_up() -> None:
    harness = Harness()
    for write in (put(), delete(), put(indeterminate=True)):
        with pytest.raises(OriginFailure):
            await harness.uploader.upload(write, harness.clock.now())
    assert harness.requested == []


# ---- replies that were lost


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("fault", "indeterminate"), [(Fault.TIMEOUT, True), (Fault.INCOMPLETE, True), (Fault.SERVER, False)]
)
@pytest.mark.parametrize("happened", [False, True])
async def test_a_lost_response_is_followed_by_a_head(
    known: bool, fault: Fault, indeterminate: bool, happened: bool
) -> None:
    harness = Harness()
    write = put(base=harness.holds(b"theirs") if known else ABSENT, policy="fail")
    harness.store.fail(fault, after_effect=happened)
    await harness.fails(write)
    assert write.belief.indeterminate is indeterminate
    assert harness.requested == ["put"]
    assert await harness.upload(write) == (ALREADY if happened else DONE)
    assert harness.has == b"ours"
    assert (
        harness.requested
        == {
            (True, True): ["head"],
            (True, False): ["head", "put"],
            (False, True): ["put", "head"],
            (False, False): ["put"],
        }[indeterminate, happened]
    )


@pytest.mark.parametrize("fault", [Fault.CONNECT, Fault.THROTTLED, Fault.BUSY, Fault.DENIED, Fault.REJECTED])
async def test_what_certainly_did_not_happen_needs_no_look(fault: Fault) -> None:
    harness = Harness()
    write = put(base=ABSENT)
    harness.store.fail(fault)
    assert (await harness.fails(write)).fault is fault
    assert (write.belief.indeterminate, harness.requested) == (False, ["put"])


async def test_a_look_that_fails_leaves_the_doubt() -> None:
    harness = Harness()
    write = put(base=ABSENT, indeterminate=True)
    for fault in (Fault.SERVER, Fault.DENIED, Fault.NO_BUCKET):
        harness.store.fail(fault)
        assert (await harness.fails(write)).fault is fault
        assert (write.belief.indeterminate, harness.requested) == (True, ["head"])
    assert await harness.upload(write) == DONE
    assert not write.belief.indeterminate


async def test_a_delete_whose_response_was_lost_is_done() -> None:
    harness = Harness()
    write = delete(base=harness.holds(b"theirs"), policy="fail", indeterminate=True)
    harness.holds(None)
    assert await harness.upload(write) == UploadResult(UploadOutcome.ALREADY, ABSENT)


@pytest.mark.parametrize("maybe_absent", [True, False])
async def test_a_put_over_what_a_delete_of_ours_may_have_removed(maybe_absent: bool) -> None:
    harness = Harness()
    write = put(base='"gone"', maybe_absent=maybe_absent, policy="fail")
    if maybe_absent:
        assert await harness.upload(write) == DONE
        assert (harness.requested, write.belief.maybe_absent) == (["put", "head", "put"], False)
    else:
        with pytest.raises(Conflict, match="another writer deleted it"):
            await harness.upload(write)


async def test_other_writers_that_change_the_object_repeatedly_are_contention() -> None:
    harness = Harness()
    harness.store.reject = lambda operation, _: Fault.CHANGED if operation == "put" else None
    write = put()
    assert (await harness.fails(write)).fault is Fault.BUSY
    assert harness.requested == ["put", "head"] * (MAX_ROUNDS - 1) + ["put"]
    harness.store.reject = None
    assert await harness.upload(write) == DONE


# ---- an S3 without HEAD, or without conditions


class WithoutHead(MemoryStore):
    """Rejects every HEAD, without a reason, since the reply to a HEAD has no body."""

    code = "HTTP 403"

    async def head(self, ref: Ref) -> None:
        self.calls.append(("head", ref.key))
        raise OriginFailure(Fault.DENIED, "head", ref, self.code, "403")


async def test_a_head_rejected_without_a_reason_does_not_prevent_a_conditional_write() -> None:
    store = WithoutHead("bucket")
    harness = Harness(store)
    assert await harness.upload(put(base=ABSENT, indeterminate=True)) == DONE
    assert harness.requested == ["head", "put"]
    assert await harness.upload(put(base=harness.holds(b"seen"), indeterminate=True)) == DONE
    assert await harness.upload(delete(base=harness.holds(b"seen"))) == UploadResult(UploadOutcome.DELETED, ABSENT)
    store.code = "ExpiredToken"
    assert (await harness.fails(put(indeterminate=True, base=ABSENT))).code == "ExpiredToken"


async def test_a_head_rejected_without_a_reason_lets_nothing_be_overwritten() -> None:
    harness = Harness(WithoutHead("bucket"))
    harness.holds(b"foreign")
    for write in (put(indeterminate=True), put(base='"seen"', indeterminate=True), delete(base='"seen"')):
        await harness.fails(write)
        assert harness.has == b"foreign"


@pytest.mark.parametrize("base", [UNKNOWN, ABSENT])
async def test_a_delete_that_knows_no_object_has_no_condition_to_be_tried_on(base: Any) -> None:
    harness = Harness(WithoutHead("bucket"))
    harness.holds(b"foreign")
    assert (await harness.fails(delete(base=base))).fault is Fault.DENIED
    assert (harness.requested, harness.has) == (["head"], b"foreign")


class Unconditional(MemoryStore):
    """Knows no conditional writes."""

    async def put(self, ref: Ref, value: bytes, *, if_match: str = "", if_absent: bool = False, **rest: Any) -> str:
        if if_match or if_absent:
            self.calls.append(("put", ref.key))
            raise OriginFailure(Fault.UNSUPPORTED, "put", ref, "NotImplemented", "501")
        return await super().put(ref, value, **rest)


async def test_where_s3_knows_no_conditions_it_looks_before_every_write(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness(Unconditional("bucket"))
    assert await harness.upload(put(base=ABSENT)) == DONE
    assert harness.requested == ["put", "head", "put"]
    harness.holds(b"seen")
    assert await harness.upload(put(base=etag_of(b"seen"))) == DONE
    assert harness.requested == ["put", "head", "put"], "a store may know one condition and not the other"
    harness.holds(b"seen")
    assert await harness.upload(put(base=etag_of(b"seen"))) == DONE
    assert harness.requested == ["head", "put"]
    assert caplog.text.count("this S3 has no conditional writes") == 2
    later = harness.holds(b"later", Version(9, 9))
    assert await harness.upload(put()) == UploadResult(UploadOutcome.SUPERSEDED, later)
    harness.holds(b"foreign")
    with pytest.raises(Conflict):
        await harness.upload(put(base='"seen"', policy="fail"))
    assert harness.has == b"foreign"


async def test_an_s3_that_does_not_know_plain_writes_either_is_reported() -> None:
    harness = Harness()
    harness.store.reject = lambda operation, _: Fault.UNSUPPORTED if operation == "put" else None
    assert (await harness.fails(put())).fault is Fault.UNSUPPORTED
    assert harness.requested == ["put", "head", "put"]
