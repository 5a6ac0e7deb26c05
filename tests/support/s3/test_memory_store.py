"""The knobs by which tests make the store in memory fail; what it does otherwise is the stores' contract."""

from __future__ import annotations

import pytest

from milena_cache.objects.object_store import Fault, OriginFailure, Ref
from tests.support.s3.memory_store import MemoryStore, WithMetadata, etag_of

REF = Ref("b", "k")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("b")


async def metadata(store: MemoryStore) -> dict[str, str]:
    info = await store.head(REF)
    assert info is not None
    return dict(info.metadata)


async def test_a_foreign_write_inherits_no_metadata(store: MemoryStore) -> None:
    await store.put(REF, b"", metadata={"version": "1"})
    store.objects[REF] = b""
    assert await metadata(store) == {}
    store.objects[REF] = WithMetadata(b"v", {"Version": "2"})
    assert await metadata(store) == {"version": "2"}


async def test_a_failure_after_the_effect_leaves_the_effect(store: MemoryStore) -> None:
    store.fail(Fault.TIMEOUT, after_effect=True, times=2)
    with pytest.raises(OriginFailure, match="TIMEOUT"):
        await store.put(REF, b"v", if_absent=True, metadata={"version": "1"})
    with pytest.raises(OriginFailure, match="TIMEOUT"):
        await store.head(REF)
    assert await metadata(store) == {"version": "1"}
    store.fail(Fault.TIMEOUT, after_effect=True)
    with pytest.raises(OriginFailure, match="TIMEOUT"):
        await store.delete(REF, if_match=etag_of(b"v"))
    assert store.objects == {}


async def test_a_condition_that_does_not_hold_has_no_effect_to_fail_after(store: MemoryStore) -> None:
    store.objects[REF] = b"other"
    store.fail(Fault.TIMEOUT, after_effect=True, times=3)
    with pytest.raises(OriginFailure, match="CHANGED"):
        await store.put(REF, b"v", if_absent=True)
    with pytest.raises(OriginFailure, match="CHANGED"):
        await store.put(REF, b"v", if_match=etag_of(b"v"))
    with pytest.raises(OriginFailure, match="CHANGED"):
        await store.delete(REF, if_match=etag_of(b"v"))
    assert store.objects == {REF: b"other"}
    await store.put(REF, b"v")


async def test_chosen_requests_are_rejected_for_good_and_use_up_no_other_failure(store: MemoryStore) -> None:
    store.reject = lambda operation, ref: Fault.DENIED if (operation, ref.key) == ("put", "poison") else None
    store.fail(Fault.SERVER)
    for _ in range(2):
        with pytest.raises(OriginFailure, match="DENIED"):
            await store.put(Ref("b", "poison"), b"v")
    with pytest.raises(OriginFailure, match="SERVER"):
        await store.put(REF, b"v")
    await store.put(REF, b"v")
    assert await store.head(Ref("b", "poison")) is None
