"""rclone and obstore, unchanged."""

from __future__ import annotations

import subprocess
from pathlib import Path

import obstore
import pytest
from mypy_boto3_s3 import S3Client
from obstore.store import S3Store

from tests.e2e.s3_clients.conftest import ACCESS_KEY, SECRET_KEY, Endpoints
from tests.support.s3.rclone_server import PROGRAM

pytestmark = pytest.mark.e2e


def test_obstore(endpoints: Endpoints) -> None:
    store = S3Store(
        endpoints.bucket,
        endpoint=endpoints.url,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    created = obstore.put(store, "obstore/a", b"0123456789", mode="create")
    assert obstore.get(store, "obstore/a").bytes().to_bytes() == b"0123456789"
    assert obstore.get_range(store, "obstore/a", start=2, end=5).to_bytes() == b"234"
    assert obstore.head(store, "obstore/a")["e_tag"] == created["e_tag"]
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "obstore/a", b"2", mode="create")
    obstore.put(store, "obstore/a", b"2", mode={"e_tag": created["e_tag"]})
    assert [each["path"] for page in obstore.list(store, "obstore") for each in page] == ["obstore/a"]
    obstore.delete(store, ["obstore/a"])
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "obstore/a")


def test_rclone(endpoints: Endpoints, s3: S3Client, tmp_path: Path) -> None:
    local, back = tmp_path / "local", tmp_path / "back"
    local.mkdir()
    for name, size in (("a b+c", 10), ("empty", 0), ("ä", 100_000)):
        (local / name).write_bytes(b"x" * size)
    remote = (
        f":s3,provider=Other,access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY},"
        f"endpoint='{endpoints.url}':{endpoints.bucket}/rclone"
    )

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(PROGRAM), *arguments], capture_output=True, text=True, timeout=60, env={"HOME": str(tmp_path)}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("copy", str(local), remote)
    assert sorted(run("lsf", remote).split("\n")) == sorted(["", "a b+c", "empty", "ä"])
    run("copy", remote, str(back))
    assert {each.name: each.read_bytes() for each in back.iterdir()} == {
        each.name: each.read_bytes() for each in local.iterdir()
    }
    assert [int(each.stat().st_mtime) for each in sorted(back.iterdir())] == [
        int(each.stat().st_mtime) for each in sorted(local.iterdir())
    ], "the time of a file is metadata of its object"
    assert s3.get_object(Bucket=endpoints.bucket, Key="rclone/a b+c")["Body"].read() == b"x" * 10
    run("delete", remote)
    assert run("lsf", remote) == ""
