"""The doubles and fixtures that users test their own code with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from milena_client import InvalidRequest, KeyNotFound, Milena, NodeLost, RateLimited, RetryPolicy, Unavailable
from milena_client.testing import FakeAsyncMilena, FakeMilena


def test_objects_are_there_and_not_yet_cached() -> None:
    client = FakeMilena({"k": b"v", "ü": bytearray(b"w")})
    outcomes = []
    for _ in range(2):
        entry = client.get_entry("k")
        assert entry is not None
        outcomes.append(entry.outcome)
    assert outcomes == ["miss", "hit"]
    assert client["ü"] == b"w"


def test_a_double_is_a_client() -> None:
    def needs_a_client(client: Milena) -> bytes | None:
        return client.get("k")

    assert needs_a_client(FakeMilena({b"k": b"v"})) == b"v"


async def test_objects_end_when_their_time_is_over() -> None:
    client, other = FakeMilena(), FakeAsyncMilena()
    client.set("k", b"v", ttl=10)
    await other.set("k", b"v", ttl=10)
    client.advance(4)
    entry = client.get_entry("k")
    assert entry is not None
    assert (entry.age, entry.ttl) == (4.0, 6.0)
    client.advance(6)
    other.advance(10)
    assert client.get("k") is None
    assert list(client.scan()) == []
    assert await other.get("k") is None
    client.set("k", b"w", if_none_match="*")
    client.advance(10)
    assert client.get("k") == b"w", "a write without ttl ends the old one's"


def test_failing_takes_no_time_and_ends() -> None:
    client = FakeMilena({"k": b"v"})
    client.fail_with(NodeLost("gone"), times=2)
    assert client.get("k") == b"v"  # retried
    client.fail_with(Unavailable("down"), times=None)
    with pytest.raises(Unavailable, match="down"):
        client.get("k")
    client.fail_with(Unavailable("down"), times=0)
    assert client.get("k") == b"v"


def test_failing_without_retries() -> None:
    client = FakeMilena({"k": b"v"}, retry=RetryPolicy(tokens=0))
    client.fail_with(NodeLost("gone"))
    with pytest.raises(NodeLost):
        client.get("k")
    assert client.get("k") == b"v"


async def test_the_async_double() -> None:
    client = FakeAsyncMilena({"k": b"v"})
    client.fail_with(RateLimited("slow down", 100.0))
    with pytest.raises(RateLimited):
        await client.get("k")
    assert await client.get("k") == b"v"
    async with client:
        assert [item.key async for item in client.scan()] == ["k"]


SUITE = """
import pytest
from milena_client import Unavailable

def test_sync(milena):
    milena["k"] = b"v"
    assert milena["k"] == b"v"
    milena.fail_with(Unavailable("down"), times=None)
    with pytest.raises(Unavailable):
        milena["k"]

def test_fresh(milena):
    assert "k" not in milena

async def test_async(async_milena):
    await async_milena.set("k", b"v")
    assert await async_milena.get("k") == b"v"
"""


def test_the_fixtures_in_somebodys_test_suite(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["milena_client.testing"]\n')
    (tmp_path / "test_theirs.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_doubles_work_without_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; from milena_client.testing import FakeMilena; FakeMilena()"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_copies_are_made_of_what_there_is() -> None:
    client, other = FakeMilena({"a": b"v"}), FakeAsyncMilena({"a": b"v"})
    client.copy("a", "b")
    await other.copy("a", "b")
    assert (client.get("b"), await other.get("b")) == (b"v", b"v")
    with pytest.raises(KeyNotFound):
        client.copy("missing", "c")
    with pytest.raises(InvalidRequest):
        client.copy("a", "a")
