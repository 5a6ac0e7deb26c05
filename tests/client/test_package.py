"""The package as its users see it: what it needs, and what a type checker says about code that uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import milena_client
from milena_common.api import errors

USER = """
import asyncio
from collections.abc import Iterator
from milena_client import AsyncMilena, Entry, Milena, ObjectInfo, RetryPolicy, Unavailable, Written
from milena_client.testing import FakeAsyncMilena, FakeMilena


def use(client: Milena) -> None:
    value: bytes | None = client.get("k")
    filled: bytes = client.get(b"k", b"")
    other: bytes | int = client.get("k", 0, timeout=1.0)
    entry: Entry | None = client.get_entry("k")
    written: Written = client.set("k", memoryview(b"v"))
    same: Written = client.set("k", b"v", durability="through", if_match=written.etag)
    client.set("k", b"v", durability="safe")  # type: ignore[arg-type]
    gone: Written = client.delete("k", if_match=same.etag)
    client.set("k", b"v", if_none_match="*")
    client.wait_durable("k", b"l", timeout=1.0)
    left: int = client.flush().remaining
    by_str: dict[str, bytes] = client.get_many(["a", "b"])
    by_bytes: dict[bytes, bytes] = client.get_many({b"a"})
    values: dict[str, bytes] = {"a": b"1"}
    client.set_many(values)
    client.delete_many(values)
    items: Iterator[ObjectInfo] = client.scan("a/")
    present: bool = "k" in client
    client["k"] = b"v"
    client["k"].decode()
    client.set("k", "text")  # type: ignore[arg-type]
    client.get(5)  # type: ignore[call-overload]


async def use_async(client: AsyncMilena) -> None:
    filled: bytes = await client.get("k", b"")
    async for item in client.scan():
        item.key.upper()
    found: dict[str, bytes] = await client.get_many(["a"])


with Milena.from_url("milena://h", retry=RetryPolicy(tokens=0)) as client:
    try:
        use(client)
    except TimeoutError:
        pass
asyncio.run(use_async(FakeAsyncMilena({"k": b"v"})))
fake = FakeMilena({"k": b"v"})
fake.fail_with(Unavailable("down"), times=None)
use(fake)
"""


def test_users_code_passes_strict_type_checking(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", "user.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(Path(milena_client.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode in (0, 1), checked.stderr
    # Of an installed package nothing is reported; here generated stubs may be.
    assert [line for line in checked.stdout.splitlines() if line.startswith("user.py")] == []


def test_the_client_needs_only_grpc_and_protobuf() -> None:
    code = (
        "import sys, milena_client, milena_client.admin; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), sep=',')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.strip().split(","))
    heavy = {
        "boto3",
        "botocore",
        "obstore",
        "prometheus_client",
        "aiohttp",
        "cachetools",
        "click",
        "rich",
        "dotenv",
    }
    assert not loaded & (heavy | {"pytest", "moto", "milena_router", "milena_cache"})


@pytest.mark.parametrize("name", milena_client.__all__)
def test_every_exported_name_is_documented(name: str) -> None:
    assert getattr(milena_client, name).__doc__


def test_every_error_is_exported() -> None:
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.MilenaError)
    }
    assert kinds <= set(milena_client.__all__)


def test_both_clients_have_the_same_methods() -> None:
    def names(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert names(milena_client.Milena) == names(milena_client.AsyncMilena)
