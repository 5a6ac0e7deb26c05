"""One suite for every client: sync and async, through the router and straight to the nodes, and over the double
that users test with.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from milena_client import (
    AsyncMilena,
    CommonPrefix,
    ConditionFailed,
    Entry,
    Flushed,
    InvalidRequest,
    KeyNotFound,
    Milena,
    ObjectInfo,
    RangeNotSatisfiable,
    Written,
)
from milena_client.core.files.upload_steps import WHOLE_BYTES
from milena_client.testing import FakeAsyncMilena, FakeMilena
from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.etags import etag_of
from milena_common.api.uploads import MAX_STEP_BYTES
from tests.client.blocking import Blocking
from tests.client.direct_cluster import DirectCluster
from tests.client.router import router


@pytest.fixture(params=["sync", "async", "fake", "async fake", "direct", "async direct"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of an empty cluster."""
    if request.param == "fake":
        yield FakeMilena()
        return
    with asyncio.Runner() as runner:
        if request.param == "async fake":
            yield Blocking(FakeAsyncMilena(), runner)
            return
        if "direct" in request.param:
            with DirectCluster(3) as nodes:
                if request.param == "direct":
                    with Milena(nodes.address) as direct:
                        nodes.wait_until_direct(direct)
                        yield direct
                else:
                    blocking = Blocking(AsyncMilena(nodes.address), runner)
                    nodes.wait_until_direct(blocking)
                    yield blocking
                    blocking.close()
            return
        cluster, lock = MemoryCluster(lambda: 0.0), threading.Lock()

        def reply(method: str, request: Any, _: Any) -> Any:
            with lock:
                return cluster.respond(method, request)

        with router(reply) as address:
            if request.param == "sync":
                with Milena(address) as sync_client:
                    yield sync_client
            else:
                async_client = AsyncMilena(address)
                yield Blocking(async_client, runner)
                runner.run(async_client.close())


def test_a_missing_key(client: Any) -> None:
    assert client.get("k") is None
    assert client.get("k", b"other") == b"other"
    assert client.get_entry("k") is None
    assert client.exists("k") is False


@pytest.mark.parametrize(
    "key", ["k", b"k", "grün/🦊", "/lead", "trail/", "a//b", "..", "100%", "{tag}k", "s3://b/k", "x" * 1024]
)
def test_set_and_get(client: Any, key: str | bytes) -> None:
    value = bytes(range(256))
    assert client.set(key, value) == Written(etag_of(value), "127.0.0.1:50051", "back")
    assert client.get(key) == value
    assert client.exists(key) is True
    encoded = key.encode() if isinstance(key, str) else key
    assert client.get(encoded) == client.get(encoded.decode()) == value


def test_an_empty_value_is_a_value(client: Any) -> None:
    client.set("k", b"")
    assert client.get("k", b"default") == b""
    assert client.exists("k") is True


@pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab")])
def test_any_bytes_like_value(client: Any, value: Any) -> None:
    client.set("k", value)
    assert client.get("k") == b"ab"


def test_an_entry_says_where_the_value_came_from(client: Any) -> None:
    client.set("k", b"abc")
    entry = client.get_entry("k")
    assert entry == Entry(b"abc", etag_of(b"abc"), 0.0, "hit", "127.0.0.1:50051", 3, False)


def test_delete_is_final_and_can_be_repeated(client: Any) -> None:
    client.set("k", b"v")
    assert client.delete("k") == Written("", "127.0.0.1:50051", "back")
    assert client.get("k") is None
    assert client.delete("k") == Written("", "127.0.0.1:50051", "back")


@pytest.mark.parametrize("durability", ["back", "through", "memory"])
def test_durability_is_chosen_by_the_caller(client: Any, durability: str) -> None:
    assert client.set("k", b"v", durability=durability).durability == durability
    assert client.delete("k", durability=durability).durability == durability
    written = client.set_many({"a": b"1", "b": b"2"}, durability=durability)
    assert {each.durability for each in written.values()} == {durability}
    client.delete_many(["a", "b"], durability=durability)
    assert client.get_many(["a", "b"]) == {}


def test_a_condition_holds_or_nothing_is_written(client: Any) -> None:
    first = client.set("k", b"1", if_none_match="*")
    with pytest.raises(ConditionFailed, match="if_none_match"):
        client.set("k", b"2", if_none_match="*")
    second = client.set("k", b"2", if_match=first.etag)
    with pytest.raises(ConditionFailed, match=f"{second.etag}, not {first.etag}"):
        client.set("k", b"3", if_match=first.etag)
    with pytest.raises(ConditionFailed):
        client.delete("k", if_match=first.etag)
    assert client.get("k") == b"2"
    client.delete("k", if_match=second.etag)
    for call in (client.delete, lambda key, if_match: client.set(key, b"4", if_match=if_match)):
        with pytest.raises(ConditionFailed, match="no such object"):
            call("k", if_match=second.etag)
    assert client.exists("k") is False


def test_a_condition_is_one_and_not_empty(client: Any) -> None:
    for wrong in ({"if_match": ""}, {"if_none_match": ""}, {"if_match": "*"}, {"if_none_match": '"e"'}):
        with pytest.raises(InvalidRequest, match=next(iter(wrong))):
            client.set("k", b"v", **wrong)
    with pytest.raises(InvalidRequest, match="both"):
        client.set("k", b"v", if_match='"e"', if_none_match="*")
    with pytest.raises(InvalidRequest, match="if_match"):
        client.delete("k", if_match="")
    with pytest.raises(InvalidRequest, match="durability"):
        client.set("k", b"v", durability="safe")
    assert client.exists("k") is False


def test_waiting_for_s3(client: Any) -> None:
    client.set("k", b"v", durability="memory")
    assert client.flush() == Flushed(remaining=0, failed=0, flushed=0)
    assert client.flush(timeout=1.0).remaining == 0
    assert client.wait_durable("k", b"other", timeout=1.0) is None
    with pytest.raises(TypeError, match="needs keys"):
        client.wait_durable()
    with pytest.raises(InvalidRequest, match="key"):
        client.wait_durable("")
    with pytest.raises(InvalidRequest, match="timeout"):
        client.flush(timeout=0)


def test_many(client: Any) -> None:
    values = {f"k{number}": str(number).encode() for number in range(200)}
    written = client.set_many(values)
    assert written.keys() == values.keys()
    assert client.get_many([*values, "none"]) == values
    assert client.delete_many(list(values)) is None
    assert client.get_many(values) == {}


def test_scan_goes_over_all_pages_in_order(client: Any) -> None:
    client.set_many({f"a/{number:04}": b"x" for number in range(1500)})
    client.set("b", b"12345")
    assert [item.key for item in client.scan("a/")] == [f"a/{number:04}" for number in range(1500)]
    assert list(client.scan("b")) == [ObjectInfo("b", 5, etag_of(b"12345"), 0.0)]
    assert len(list(client.scan())) == 1501
    assert list(client.scan("c")) == []


def test_one_level_of_keys(client: Any) -> None:
    client.set_many({f"p/{number:04}/x": b"x" for number in range(1100)})
    client.set_many({"p": b"1", "p/0000": b"12", "p/z": b"123", "q-1": b"", "q-2": b""})
    level = list(client.scan_level("p/"))
    assert level[0] == ObjectInfo("p/0000", 2, etag_of(b"12"), 0.0)
    assert level[1:-1] == [CommonPrefix(f"p/{number:04}/") for number in range(1100)]
    assert level[-1] == ObjectInfo("p/z", 3, etag_of(b"123"), 0.0)
    assert list(client.scan_level(delimiter="-"))[-1] == CommonPrefix("q-")
    assert list(client.scan_level("none/")) == []
    for delimiter in ("", "x" * 1025, "\0"):
        with pytest.raises(InvalidRequest, match="delimiter"):
            list(client.scan_level("p/", delimiter))


def test_a_part_of_a_value(client: Any) -> None:
    etag = client.set("k", b"0123456789").etag
    entry = client.get_range("k", 2, 3)
    assert (entry.value, entry.size, entry.etag) == (b"234", 10, etag)
    for offset, length, expected in ((0, None, b"0123456789"), (7, None, b"789"), (-2, None, b"89"), (-5, 2, b"56"),
                                     (8, 100, b"89")):  # fmt: skip
        assert client.get_range("k", offset, length, if_match=etag).value == expected
    assert client.get_range("none", 0, 1) is None
    with pytest.raises(RangeNotSatisfiable, match="10 bytes"):
        client.get_range("k", 10, 1)
    with pytest.raises(ConditionFailed):
        client.get_range("k", 0, 1, if_match='"other"')
    with pytest.raises(InvalidRequest, match="length: got 0"):
        client.get_range("k", 0, 0)
    with pytest.raises(InvalidRequest, match="offset: got"):
        client.get_range("k", 2**63)


def test_parts_of_one_version(client: Any) -> None:
    client.set("k", b"0123456789")
    assert client.get_ranges("k", [(2, 3), (-2, 100), (0, 1), (2, 3)]) == [b"234", b"89", b"0", b"234"]
    assert client.get_ranges("k", []) == []
    assert client.get_ranges("none", [(0, 1)]) is None
    assert client.get_ranges("none", []) is None
    for ranges in ([(0, 1), (10, 1)], [(10, 1), (0, 1)]):
        with pytest.raises(RangeNotSatisfiable, match="10 bytes"):
            client.get_ranges("k", ranges)
    with pytest.raises(InvalidRequest, match="length: got 0"):
        client.get_ranges("k", [(0, 1), (0, 0)])


def test_the_metadata_of_an_object(client: Any) -> None:
    etag = client.set("k", b"0123456789", ttl=100).etag
    stat = client.stat("k")
    assert (stat.size, stat.etag) == (10, etag)
    assert 90 < stat.ttl <= 100
    assert client.stat("none") is None
    client.set("empty", b"")
    assert (client.stat("empty").size, client.stat("empty").ttl) == (0, None)


def test_an_object_as_a_file(client: Any) -> None:
    value = bytes(range(256)) * 1000
    etag = client.set("k", value).etag
    file = client.open("k")
    assert (file.stat.size, file.stat.etag) == (len(value), etag)
    assert (file.read(10), file.tell()) == (value[:10], 10)
    assert file.seek(-5, 2) == len(value) - 5
    assert (file.read(10), file.read(10), file.read()) == (value[-5:], b"", b"")
    assert file.seek(100_000) == 100_000
    assert file.read() == value[100_000:]
    file.seek(0)
    assert b"".join(file.chunks(1000)) == value
    with pytest.raises(ValueError, match=r"position -1|negative"):
        file.seek(-1)
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_a_file_of_an_object_that_is_replaced_is_never_of_two_versions(client: Any) -> None:
    value = bytes(300_000)
    client.set("k", value)
    file = client.open("k")
    assert file.read(10) == value[:10]
    client.set("k", bytes(reversed(range(256))) * 2000)
    file.seek(200_000)
    with pytest.raises(ConditionFailed):
        file.read(10)
    client.delete("k")
    with pytest.raises(ConditionFailed, match="replaced or deleted"):
        file.read(10)


@pytest.mark.parametrize("size", [0, 1, WHOLE_BYTES, WHOLE_BYTES + 1, WHOLE_BYTES + 2 * MAX_STEP_BYTES])
def test_an_object_that_is_written_as_a_file(client: Any, size: int) -> None:
    value = (bytes(range(251)) * (size // 251 + 1))[:size]
    client.set("k", b"old")
    file = client.open("k", "wb", durability="through")
    for at in range(0, size, 700_001):
        part = value[at : at + 700_001]
        assert file.write(part) == len(part)
    assert file.tell() == size
    assert client.get("k") == b"old"
    assert file.written is None
    file.close()
    file.close()
    assert client.get("k") == value
    assert file.written == Written(etag_of(value), file.written.node, "through")
    with pytest.raises(ValueError, match="closed"):
        file.write(b"more")


@pytest.mark.parametrize("size", [1, WHOLE_BYTES + MAX_STEP_BYTES])
def test_a_file_that_is_not_finished_stores_nothing(client: Any, size: int) -> None:
    file = client.open("k", "wb")
    file.write(bytes(size))
    file.abort()
    file.close()
    assert client.get("k") is None
    assert file.written is None


@pytest.mark.parametrize("size", [1, WHOLE_BYTES + MAX_STEP_BYTES])
def test_an_object_that_is_to_be_new(client: Any, size: int) -> None:
    file = client.open("k", "xb")
    file.write(bytes(size))
    file.close()
    with pytest.raises(ConditionFailed, match="exists"):
        client.open("k", "xb")
    late = client.open("other", "xb")
    late.write(bytes(size))
    client.set("other", b"theirs")
    with pytest.raises(ConditionFailed):
        late.close()
    assert client.get("other") == b"theirs"


def test_arguments_of_a_file_that_is_written_are_checked_at_once(client: Any) -> None:
    for key, options in (("", {}), ("k", {"durability": "disk"})):
        with pytest.raises(InvalidRequest):
            client.open(key, "wb", **options)
    client.set("k", b"v")
    with pytest.raises(InvalidRequest, match="durability"):
        client.open("k", "rb", durability="back")


def test_what_cannot_be_opened(client: Any) -> None:
    with pytest.raises(KeyNotFound):
        client.open("none")
    client.set("k", b"v")
    for mode in ("r", "w", "ab", "r+b", "wb+", ""):
        with pytest.raises(InvalidRequest, match="mode: got"):
            client.open("k", mode)
    client.set("empty", b"")
    assert client.open("empty").read() == b""


@pytest.mark.parametrize("key", ["", "a\0b", "x" * 1025, b"\xff", "\ud800"])
def test_bad_keys_are_rejected_everywhere(client: Any, key: Any) -> None:
    for call in (client.get, client.get_entry, client.exists, client.delete, lambda key: client.set(key, b"")):
        with pytest.raises(InvalidRequest, match="key"):
            call(key)


def test_text_values_are_rejected(client: Any) -> None:
    with pytest.raises(TypeError, match="encode"):
        client.set("k", "text")


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_as_a_mapping(kind: str) -> None:
    cluster = MemoryCluster(lambda: 0.0)
    with router(lambda method, request, _: cluster.respond(method, request)) as address:
        client = Milena(address) if kind == "real" else FakeMilena()
        with client as m:
            m["k"] = b"v"
            assert m["k"] == b"v"
            assert "k" in m
            del m["k"]
            assert "k" not in m
            del m["k"]
            with pytest.raises(KeyNotFound, match="there is no key 'k'") as error:
                m["k"]
            assert isinstance(error.value, KeyError)
            with pytest.raises(TypeError):
                iter(m)


def test_one_client_serves_many_threads() -> None:
    cluster, lock = MemoryCluster(lambda: 0.0), threading.Lock()

    def reply(method: str, request: Any, _: Any) -> Any:
        with lock:
            return cluster.respond(method, request)

    wrong: list[str] = []
    with router(reply) as address, Milena(address) as client:

        def work(name: str) -> None:
            for number in range(20):
                client.set(f"{name}/{number}", name.encode())
                if client.get(f"{name}/{number}") != name.encode():
                    wrong.append(name)

        threads = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert len(list(client.scan())) == 160


def test_two_buckets_are_two_worlds() -> None:
    cluster = MemoryCluster(lambda: 0.0)
    with (
        router(lambda method, request, _: cluster.respond(method, request)) as address,
        Milena(address) as default,
        Milena.from_url(f"milena://{address}/logs") as logs,
    ):
        logs.set("k", b"logs")
        assert default.get("k") is None
        assert logs.get("k") == b"logs"
