"""Uploads to stores that ignore conditions, do not know them, or deny those that hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from milena_cache.objects.object_store import Ref
from milena_cache.objects.version import ABSENT, UNKNOWN
from milena_cache.origin.conditions import MAX_EXCEPTIONS, Capability, State
from milena_cache.writeback.uploads.upload import MAX_REQUESTS, Conflict, UploadOutcome, UploadResult, Write
from tests.cache.writeback.uploads.uploader_under_test import DONE, REF, Harness, delete, put
from tests.support.conditions import made_conditions
from tests.support.s3.memory_store import MemoryStore, WithMetadata, etag_of

OURS = etag_of(b"ours")
KINDS = ["create", "replace", "delete"]


def harness_over(state: State, **store: set[str]) -> Harness:
    """An uploader that knows every capability to be in `state`, over a store with these faults."""
    harness = Harness(MemoryStore("bucket"), made_conditions(state))
    for name, operations in store.items():
        setattr(harness.store, name, operations)
    return harness


def ignoring() -> Harness:
    return harness_over(State.IGNORED, ignoring=set(KINDS))


# ---- a store that ignores conditions


async def test_a_create_only_write_finds_the_object_by_looking() -> None:
    harness = ignoring()
    harness.holds(b"precious")
    with pytest.raises(Conflict):
        await harness.upload(put(base=ABSENT, policy="fail", strict=True))
    assert (harness.requested, harness.has) == (["head"], b"precious")
    harness.holds(None)
    assert await harness.upload(put(base=ABSENT, policy="fail", strict=True)) == DONE
    assert harness.requested == ["head", "put"]


async def test_a_change_by_another_writer_since_the_read_is_a_conflict() -> None:
    harness = ignoring()
    read = harness.holds(b"read")
    harness.holds(b"theirs")
    with pytest.raises(Conflict):
        await harness.upload(put(base=read, policy="fail"))
    with pytest.raises(Conflict):
        await harness.upload(delete(base=read, policy="fail"))
    assert harness.has == b"theirs"
    await harness.upload(put(base=read, policy="overwrite"))
    assert harness.uploader.conflicts["overwrite"] == 1


@pytest.mark.parametrize("state", [state for state in State if state is not State.WORKS])
async def test_unless_conditions_are_known_to_work_each_write_looks_first(state: State) -> None:
    harness = harness_over(state)
    assert await harness.upload(put(base=ABSENT)) == DONE
    assert await harness.upload(put(base=harness.holds(b"there"))) == DONE
    assert await harness.upload(delete(base=OURS)) == UploadResult(UploadOutcome.DELETED, ABSENT)
    assert harness.requested == ["head", "put", "head", "put", "head", "delete"]


async def test_off_sends_no_condition() -> None:
    harness = Harness(MemoryStore("bucket"), made_conditions(State.WORKS, "off"))
    harness.store.denying = set(KINDS)
    assert await harness.upload(put(base=ABSENT)) == DONE
    assert await harness.upload(delete(base=OURS)) == UploadResult(UploadOutcome.DELETED, ABSENT)
    assert harness.requested == ["head", "put", "head", "delete"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_that_says_it_does_not_know_a_condition_gets_it_no_more(kind: str) -> None:
    harness = harness_over(State.WORKS, unsupporting={kind})
    harness.holds(None if kind == "create" else b"ours")
    write = {"create": put(base=ABSENT), "replace": put(base=OURS), "delete": delete(base=OURS)}[kind]
    await harness.upload(replace(write, value=None if kind == "delete" else b"new"))
    assert harness.has == (None if kind == "delete" else b"new")
    condition = {"create": Capability.CREATE, "replace": Capability.REPLACE, "delete": Capability.DELETE}[kind]
    assert harness.uploader.conditions.state(condition) is State.UNSUPPORTED
    others = {Capability.CREATE, Capability.REPLACE, Capability.DELETE} - {condition}
    assert all(harness.uploader.conditions.trusts(each) for each in others)


# ---- a store that denies conditions that hold


def denied_writes() -> list[tuple[bytes | None, Write]]:
    known, unknown = {"base": etag_of(b"there")}, {"base": UNKNOWN}
    return [
        (b"there", put(**known)),
        (b"there", put(**unknown)),
        (b"there", put(**known, policy="fail", strict=True)),
        (b"there", put(**known, policy="fail", strict=True, indeterminate=True)),
        (b"there", delete(**known)),
        (b"there", delete(**unknown)),
        (None, put(base=ABSENT)),
        (None, put(**unknown)),
    ]


@pytest.mark.parametrize(("there", "write"), denied_writes())
async def test_a_condition_that_never_holds_costs_a_bounded_number_of_requests(
    there: bytes | None, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    harness = harness_over(State.WORKS, denying=set(KINDS))
    harness.holds(there)
    await harness.upload(write)
    assert harness.has == write.value
    assert len(harness.requested) <= MAX_REQUESTS
    assert harness.uploader.conditions.exceptions == 1
    assert caplog.text.count("although the object is what the condition names") == 1


async def test_after_a_few_objects_the_store_is_known_for_it_and_a_write_costs_two_requests() -> None:
    harness = harness_over(State.WORKS, denying={"replace"})
    for number in range(MAX_EXCEPTIONS):
        ref = Ref("bucket", str(number))
        harness.store.objects[ref] = b"there"
        await harness.upload(replace(put(base=etag_of(b"there")), ref=ref))
    assert harness.uploader.conditions.state(Capability.REPLACE) is State.NEVER_HOLDS
    assert harness.requested
    await harness.upload(put(base=harness.holds(b"there")))
    assert (harness.requested, harness.has) == (["head", "put"], b"ours")


async def test_a_change_between_rejection_and_head_is_no_such_store() -> None:
    harness = harness_over(State.WORKS)
    write = put(base=harness.holds(b"read"), policy="fail")
    harness.holds(b"theirs")
    with pytest.raises(Conflict):
        await harness.upload(write)
    assert (harness.uploader.conditions.exceptions, harness.has) == (0, b"theirs")


@pytest.mark.parametrize(
    "spell", [lambda etag: etag.strip('"'), lambda etag: f"W/{etag}"], ids=["unquoted", "weak"]
)
async def test_another_spelling_of_the_base_is_no_conflict(spell: object) -> None:
    harness = ignoring()
    harness.store.spell = spell  # type: ignore[assignment]
    assert await harness.upload(put(base=harness.holds(b"read"), policy="fail")) == DONE
    assert await harness.upload(put(base=harness.holds(b"read"), policy="fail", strict=True)) == DONE
    assert harness.has == b"ours"


# ---- writes that change nothing but metadata

ATTRIBUTES = {"ContentType": "text/html", "StorageClass": "STANDARD_IA"}


def theirs(harness: Harness, value: bytes = b"theirs") -> str:
    """An object of another writer's; its ETag."""
    harness.store.objects[REF] = WithMetadata(value, {"owner": "me"}, ATTRIBUTES)
    return etag_of(value)


def ending(etag: str) -> Write:
    return put(value=b"theirs", base=etag, keeps=etag, expires_at=2e9, policy="fail")


def kept(harness: Harness) -> bool:
    found = harness.has
    assert isinstance(found, WithMetadata)
    assert found.metadata["milena-version"] == "5-7"
    assert found.metadata["milena-expires"] == "2000000000000"
    return found.metadata.get("owner") == "me" and found.attributes == ATTRIBUTES


async def test_a_change_of_the_end_alone_is_a_copy_that_keeps_the_rest() -> None:
    harness = harness_over(State.WORKS)
    etag = theirs(harness)
    assert await harness.upload(ending(etag)) == UploadResult(UploadOutcome.UPLOADED, etag)
    assert harness.requested == ["head", "copy"]
    assert kept(harness)


async def test_a_store_without_copies_gets_the_value_with_what_was_kept() -> None:
    harness = harness_over(State.WORKS, unsupporting={"copying"})
    etag = theirs(harness)
    await harness.upload(ending(etag))
    assert harness.requested == ["head", "copy", "put"]
    assert kept(harness)
    assert not harness.uploader.conditions.copies
    await harness.upload(ending(etag))
    assert harness.requested == ["head"]  # done before


async def test_an_end_is_not_given_to_what_another_writer_has_put_there() -> None:
    harness = harness_over(State.WORKS)
    etag = theirs(harness)
    theirs(harness, b"later")
    with pytest.raises(Conflict):
        await harness.upload(ending(etag))
    assert harness.has == b"later"


async def test_a_retried_change_of_the_end_brings_its_own_value_over_other_bytes() -> None:
    harness = harness_over(State.WORKS)
    etag = theirs(harness)
    theirs(harness, b"later")
    write = ending(etag)
    await harness.upload(replace(write, belief=replace(write.belief, base=UNKNOWN), policy="overwrite"))
    assert harness.has == b"theirs"
    assert harness.requested == ["head", "put"]
    assert kept(harness)


async def test_a_copy_whose_condition_never_holds_is_made_without_it() -> None:
    harness = harness_over(State.WORKS, denying={"copy"})
    etag = theirs(harness)
    await harness.upload(ending(etag))
    assert harness.requested == ["head", "copy", "head", "copy"]
    assert kept(harness)


async def test_bytes_of_another_writer_that_were_copied_are_not_taken_for_ours() -> None:
    harness = harness_over(State.IGNORED, ignoring={"copy"})
    etag = theirs(harness)
    copy = harness.store.copy

    async def copy_late(*args: Any, **options: Any) -> str:
        theirs(harness, b"later")
        return await copy(*args, **options)

    harness.store.copy = copy_late  # type: ignore[method-assign]
    assert await harness.upload(ending(etag)) == UploadResult(UploadOutcome.SUPERSEDED, etag_of(b"later"))
    assert harness.has == b"later"
