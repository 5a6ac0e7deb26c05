"""Copies of objects: of one version of the source, whole or not at all, and by S3 if they are large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import ConditionFailed, OriginUnavailable, Overloaded
from milena_common.api.properties import Properties
from milena_common.api.uploads import UploadedPart
from milena_common.limits.byte_budget import ByteBudget
from milena_common.s3 import object_copies
from milena_common.s3.object_copies import SMALL_BYTES, Copy, ObjectCopies
from milena_common.s3.objects import Found, Written

SOURCE, TARGET = ("", b"a"), ("", b"b")
KEPT = Properties(7.0, {"content-type": "text/plain"}, {"m": "1"})


class Cluster:
    """A source, what was done with it, and what happens before each of its reads by a copy."""

    def __init__(self, size: int) -> None:
        self.version = 1
        self.size: int | None = size
        self.did: list[tuple[Any, ...]] = []
        self.before_read: Callable[[], None] = lambda: None
        self.part_error: Exception | None = None

    def found(self, value: bytes = b"") -> Found:
        size = self.size
        return Found("hit", size is not None, value, size or 0, f'"{self.version}"', 0.0, "n", KEPT)

    def replace(self) -> None:
        self.version += 1

    async def confirm(self, *_: Any) -> None:
        self.did.append(("confirm",))

    async def describe(self, *_: Any) -> Found:
        return self.found()

    def read(self, _: str, __: bytes, ___: ByteRange, ____: int, _____: float, if_match: str) -> Found:
        self.before_read()
        if if_match != f'"{self.version}"':
            raise ConditionFailed("another version")
        return self.found(b"%d" % self.version * (self.size or 0))

    async def put(self, *given: Any, **named: Any) -> Written:
        self.did.append(("put", given[:2], given[2], named))
        return Written("e", "back", "n")

    async def create_upload(self, bucket: str, key: bytes, _: float, *, properties: Properties) -> str:
        self.did.append(("create", (bucket, key), properties))
        return "u"

    async def copy_part(self, *given: Any, if_match: str) -> UploadedPart:
        self.before_read()
        if self.part_error is not None:
            raise self.part_error
        if if_match != f'"{self.version}"':
            raise ConditionFailed("another version")
        self.did.append(("part", given[3], given[5]))
        return UploadedPart(given[3], if_match)

    async def complete_upload(self, *given: Any, **named: Any) -> Written:
        self.did.append(("complete", given[:2], [part.etag for part in given[3]], named))
        return Written("e", "through", "n")

    async def abort_upload(self, *given: Any) -> None:
        self.did.append(("abort", given[2]))

    def names(self) -> list[str]:
        return [each[0] for each in self.did]


async def copied(cluster: Cluster, check: Callable[[Found], None] = lambda _: None) -> Written | None:
    budget = ByteBudget(2**26)
    copies = ObjectCopies(cluster, budget, 2**26)  # type: ignore[arg-type]
    try:
        return await copies.make(
            Copy(SOURCE, TARGET, check, None, "memory", "", "*", lambda: 1.0, lambda: 1.0, lambda _: None)
        )
    finally:
        assert budget.used == 0


async def test_a_small_object_is_put_with_what_is_kept_with_it() -> None:
    cluster = Cluster(3)
    assert await copied(cluster) == Written("e", "back", "n")
    (put,) = [each for each in cluster.did if each[0] == "put"]
    assert put[1:3] == (TARGET, b"111")
    kept = KEPT._replace(last_modified=0.0)
    assert put[3] == {"durability": "memory", "if_match": "", "if_none_match": "*", "properties": kept}
    assert cluster.names() == ["confirm", "put"], "S3 is asked which version is current"


async def test_a_large_object_is_copied_by_s3_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_copies, "PART_BYTES", SMALL_BYTES)
    cluster = Cluster(2 * SMALL_BYTES + 1)
    assert await copied(cluster) == Written("e", "through", "n")
    parts = [each[1:] for each in cluster.did if each[0] == "part"]
    assert parts == [
        (1, ByteRange(0, SMALL_BYTES)),
        (2, ByteRange(SMALL_BYTES, SMALL_BYTES)),
        (3, ByteRange(2 * SMALL_BYTES, 1)),
    ]
    assert cluster.did[-1] == ("complete", TARGET, ['"1"'] * 3, {"if_match": "", "if_none_match": "*"})


@pytest.mark.parametrize("size", [3, SMALL_BYTES + 1])
async def test_a_source_that_is_replaced_is_copied_anew(size: int) -> None:
    cluster = Cluster(size)
    changes = iter([cluster.replace])
    cluster.before_read = lambda: next(changes, lambda: None)()
    assert await copied(cluster) is not None
    assert cluster.names().count("confirm") == 2
    if size == 3:
        assert cluster.did[-1][2] == b"222"
    else:
        assert cluster.names().count("abort") == 1
        assert cluster.did[-1][2] == ['"2"']


async def test_a_source_that_is_replaced_all_the_time_is_not_copied() -> None:
    cluster = Cluster(3)
    cluster.before_read = cluster.replace
    with pytest.raises(Overloaded, match="replaced 3 times"):
        await copied(cluster)
    assert "put" not in cluster.names()


async def test_no_source_is_no_copy() -> None:
    cluster = Cluster(3)
    cluster.size = None
    assert await copied(cluster) is None
    assert cluster.names() == ["confirm"]


async def test_a_source_is_checked_before_anything_is_written() -> None:
    def check(found: Found) -> None:
        raise ConditionFailed(found.etag)

    cluster = Cluster(3)
    with pytest.raises(ConditionFailed, match='"1"'):
        await copied(cluster, check)
    assert cluster.names() == ["confirm"]


async def test_a_copy_that_fails_leaves_no_parts() -> None:
    cluster = Cluster(SMALL_BYTES + 1)
    cluster.part_error = OriginUnavailable("down")
    with pytest.raises(OriginUnavailable):
        await copied(cluster)
    assert cluster.names() == ["confirm", "create", "abort"]
