"""Uploads to stores that ignore conditions, do not know them, or deny those that hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from milena_cache.objects.object_store import Ref
from milena_cache.objects.version import ABSENT, UNKNOWN
from milena_cache.origin.conditions import MAX_EXCEPTIONS, Capability, State
from milena_cache.writeback.uploads.upload import MAX_REQUESTS, Conflict, UploadOutcome, UploadResult, Write
from tests.cache.writeback.uploads.rig import DONE, REF, Rig, delete, put
from tests.support.conditions import made_conditions
from tests.support.s3.memory_store import MemoryStore, WithMetadata, etag_of

OURS = etag_of(b"ours")
KINDS = ["create", "replace", "delete"]


def rig_over(state: State, **store: set[str]) -> Rig:
    """An uploader that knows every capability to be in `state`, over a store with these faults."""
    rig = Rig(MemoryStore("bucket"), made_conditions(state))
    for name, operations in store.items():
        setattr(rig.store, name, operations)
    return rig


def ignoring() -> Rig:
    return rig_over(State.IGNORED, ignoring=set(KINDS))


# ---- a store that ignores conditions


async def test_a_create_only_write_finds_the_object_by_looking() -> None:
    rig = ignoring()
    rig.holds(b"precious")
    with pytest.raises(Conflict):
        await rig.upload(put(base=ABSENT, policy="fail", strict=True))
    assert (rig.asked, rig.has) == (["head"], b"precious")
    rig.holds(None)
    assert await rig.upload(put(base=ABSENT, policy="fail", strict=True)) == DONE
    assert rig.asked == ["head", "put"]


async def test_a_change_by_another_writer_since_the_read_is_a_conflict() -> None:
    rig = ignoring()
    read = rig.holds(b"read")
    rig.holds(b"theirs")
    with pytest.raises(Conflict):
        await rig.upload(put(base=read, policy="fail"))
    with pytest.raises(Conflict):
        await rig.upload(delete(base=read, policy="fail"))
    assert rig.has == b"theirs"
    await rig.upload(put(base=read, policy="overwrite"))
    assert rig.uploader.conflicts["overwrite"] == 1


@pytest.mark.parametrize("state", [state for state in State if state is not State.WORKS])
async def test_unless_conditions_are_known_to_work_each_write_looks_first(state: State) -> None:
    rig = rig_over(state)
    assert await rig.upload(put(base=ABSENT)) == DONE
    assert await rig.upload(put(base=rig.holds(b"there"))) == DONE
    assert await rig.upload(delete(base=OURS)) == UploadResult(UploadOutcome.DELETED, ABSENT)
    assert rig.asked == ["head", "put", "head", "put", "head", "delete"]


async def test_off_sends_no_condition() -> None:
    rig = Rig(MemoryStore("bucket"), made_conditions(State.WORKS, "off"))
    rig.store.denying = set(KINDS)
    assert await rig.upload(put(base=ABSENT)) == DONE
    assert await rig.upload(delete(base=OURS)) == UploadResult(UploadOutcome.DELETED, ABSENT)
    assert rig.asked == ["head", "put", "head", "delete"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_that_says_it_does_not_know_a_condition_gets_it_no_more(kind: str) -> None:
    rig = rig_over(State.WORKS, unsupporting={kind})
    rig.holds(None if kind == "create" else b"ours")
    write = {"create": put(base=ABSENT), "replace": put(base=OURS), "delete": delete(base=OURS)}[kind]
    await rig.upload(replace(write, value=None if kind == "delete" else b"new"))
    assert rig.has == (None if kind == "delete" else b"new")
    condition = {"create": Capability.CREATE, "replace": Capability.REPLACE, "delete": Capability.DELETE}[kind]
    assert rig.uploader.conditions.state(condition) is State.UNSUPPORTED
    others = {Capability.CREATE, Capability.REPLACE, Capability.DELETE} - {condition}
    assert all(rig.uploader.conditions.trusts(each) for each in others)


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
    rig = rig_over(State.WORKS, denying=set(KINDS))
    rig.holds(there)
    await rig.upload(write)
    assert rig.has == write.value
    assert len(rig.asked) <= MAX_REQUESTS
    assert rig.uploader.conditions.exceptions == 1
    assert caplog.text.count("although the object is what the condition names") == 1


async def test_after_a_few_objects_the_store_is_known_for_it_and_a_write_costs_two_requests() -> None:
    rig = rig_over(State.WORKS, denying={"replace"})
    for number in range(MAX_EXCEPTIONS):
        ref = Ref("bucket", str(number))
        rig.store.objects[ref] = b"there"
        await rig.upload(replace(put(base=etag_of(b"there")), ref=ref))
    assert rig.uploader.conditions.state(Capability.REPLACE) is State.NEVER_HOLDS
    assert rig.asked
    await rig.upload(put(base=rig.holds(b"there")))
    assert (rig.asked, rig.has) == (["head", "put"], b"ours")


async def test_a_change_between_refusal_and_look_is_no_such_store() -> None:
    rig = rig_over(State.WORKS)
    write = put(base=rig.holds(b"read"), policy="fail")
    rig.holds(b"theirs")
    with pytest.raises(Conflict):
        await rig.upload(write)
    assert (rig.uploader.conditions.exceptions, rig.has) == (0, b"theirs")


@pytest.mark.parametrize(
    "spell", [lambda etag: etag.strip('"'), lambda etag: f"W/{etag}"], ids=["unquoted", "weak"]
)
async def test_another_spelling_of_the_base_is_no_conflict(spell: object) -> None:
    rig = ignoring()
    rig.store.spell = spell  # type: ignore[assignment]
    assert await rig.upload(put(base=rig.holds(b"read"), policy="fail")) == DONE
    assert await rig.upload(put(base=rig.holds(b"read"), policy="fail", strict=True)) == DONE
    assert rig.has == b"ours"


# ---- writes that change nothing but metadata

ATTRIBUTES = {"ContentType": "text/html", "StorageClass": "STANDARD_IA"}


def theirs(rig: Rig, value: bytes = b"theirs") -> str:
    """An object of another writer's; its ETag."""
    rig.store.objects[REF] = WithMetadata(value, {"owner": "me"}, ATTRIBUTES)
    return etag_of(value)


def ending(etag: str) -> Write:
    return put(value=b"theirs", base=etag, keeps=etag, expires_at=2e9, policy="fail")


def kept(rig: Rig) -> bool:
    found = rig.has
    assert isinstance(found, WithMetadata)
    assert found.metadata["milena-version"] == "5-7"
    assert found.metadata["milena-expires"] == "2000000000000"
    return found.metadata.get("owner") == "me" and found.attributes == ATTRIBUTES


async def test_a_change_of_the_end_alone_is_a_copy_that_keeps_the_rest() -> None:
    rig = rig_over(State.WORKS)
    etag = theirs(rig)
    assert await rig.upload(ending(etag)) == UploadResult(UploadOutcome.UPLOADED, etag)
    assert rig.asked == ["head", "copy"]
    assert kept(rig)


async def test_a_store_without_copies_gets_the_value_with_what_was_kept() -> None:
    rig = rig_over(State.WORKS, unsupporting={"copying"})
    etag = theirs(rig)
    await rig.upload(ending(etag))
    assert rig.asked == ["head", "copy", "put"]
    assert kept(rig)
    assert not rig.uploader.conditions.copies
    await rig.upload(ending(etag))
    assert rig.asked == ["head"]  # done before


async def test_an_end_is_not_given_to_what_another_writer_has_put_there() -> None:
    rig = rig_over(State.WORKS)
    etag = theirs(rig)
    theirs(rig, b"later")
    with pytest.raises(Conflict):
        await rig.upload(ending(etag))
    assert rig.has == b"later"


async def test_a_retried_change_of_the_end_brings_its_own_value_over_other_bytes() -> None:
    rig = rig_over(State.WORKS)
    etag = theirs(rig)
    theirs(rig, b"later")
    write = ending(etag)
    await rig.upload(replace(write, belief=replace(write.belief, base=UNKNOWN), policy="overwrite"))
    assert rig.has == b"theirs"
    assert rig.asked == ["head", "put"]
    assert kept(rig)


async def test_a_copy_whose_condition_never_holds_is_made_without_it() -> None:
    rig = rig_over(State.WORKS, denying={"copy"})
    etag = theirs(rig)
    await rig.upload(ending(etag))
    assert rig.asked == ["head", "copy", "head", "copy"]
    assert kept(rig)


async def test_bytes_of_another_writer_that_were_copied_are_not_taken_for_ours() -> None:
    rig = rig_over(State.IGNORED, ignoring={"copy"})
    etag = theirs(rig)
    copy = rig.store.copy

    async def copy_late(*args: Any, **options: Any) -> str:
        theirs(rig, b"later")
        return await copy(*args, **options)

    rig.store.copy = copy_late  # type: ignore[method-assign]
    assert await rig.upload(ending(etag)) == UploadResult(UploadOutcome.SUPERSEDED, etag_of(b"later"))
    assert rig.has == b"later"
