"""Programs and libraries of other projects, unchanged, at the router's endpoint.

Each writes, reads, lists, deletes, uploads in parts and reads a range; S3 must have what it wrote.
"""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

import polars
import pyarrow.fs
import pytest
from mypy_boto3_s3 import S3Client

from tests.e2e.s3_clients.conftest import ACCESS_KEY, SECRET_KEY, Endpoints
from tests.e2e.s3_clients.other_programs import MIB, Programs, value_of

pytestmark = pytest.mark.e2e

SMALL, LARGE = value_of("small", 1024), value_of("large", 17 * MIB)
# One that has to be encoded in a path, a query and a header.
NAME = "a b+c/ä&=?.bin"


@pytest.fixture
def programs(endpoints: Endpoints, s3: S3Client, tmp_path: Path) -> Programs:
    return Programs(endpoints, s3, tmp_path, endpoints.urls[2])


def test_aws(programs: Programs) -> None:
    local, root = programs.directory, f"s3://{programs.bucket}/aws/"
    (local / "in").mkdir()
    (local / "in" / "small").write_bytes(SMALL)
    (local / "in" / "large").write_bytes(LARGE)
    programs.run("aws", "s3", "sync", "in", f"{root}in")
    programs.run("aws", "s3", "cp", "in/small", f"{root}{NAME}")
    listed = programs.run("aws", "s3", "ls", "--recursive", root).decode()
    assert [line.split(None, 3)[3] for line in listed.splitlines()] == [
        f"aws/{NAME}",
        "aws/in/large",
        "aws/in/small",
    ]
    programs.run("aws", "s3", "sync", f"{root}in", "out")
    assert {path.name: path.read_bytes() for path in (local / "out").iterdir()} == {"small": SMALL, "large": LARGE}
    get = ("s3api", "get-object", "--bucket", programs.bucket, "--key", "aws/in/large")
    programs.run("aws", *get, "--range", "bytes=100-199", "part")
    assert (local / "part").read_bytes() == LARGE[100:200]
    url = programs.run("aws", "s3", "presign", f"{root}{NAME}").decode().strip()
    with urlopen(url) as reply:
        assert reply.read() == SMALL
    programs.run("aws", "s3", "rm", "--recursive", f"{root}in/", "--exclude", "large")
    programs.expect("aws/", {NAME: SMALL, "in/large": LARGE})


def test_s5cmd(programs: Programs) -> None:
    local, root = programs.directory, f"s3://{programs.bucket}/s5cmd"
    (local / "small").write_bytes(SMALL)
    (local / "large").write_bytes(LARGE)
    name = NAME.replace("?", "")  # it takes that for a pattern
    programs.run("s5cmd", "cp", "small", f"{root}/{name}")
    programs.run("s5cmd", "cp", "--part-size", "6", "large", f"{root}/large")
    programs.run("s5cmd", "cp", f"{root}/{name}", f"{root}/a+copy")
    listed = programs.run("s5cmd", "ls", f"{root}/*").decode().splitlines()
    assert [line.split(None, 3)[-1] for line in listed] == [name, "a+copy", "large"]
    assert programs.run("s5cmd", "cat", f"{root}/large") == LARGE
    programs.run("s5cmd", "rm", f"{root}/a+copy")
    programs.expect("s5cmd/", {name: SMALL, "large": LARGE})


def test_s3cmd(programs: Programs) -> None:
    local, root = programs.directory, f"s3://{programs.bucket}/s3cmd"
    host = programs.url.removeprefix("http://")
    (local / ".s3cfg").write_text(
        f"[default]\naccess_key = {ACCESS_KEY}\nsecret_key = {SECRET_KEY}\n"
        f"host_base = {host}\nhost_bucket = {host}\nuse_https = False\n"
    )
    (local / "small").write_bytes(SMALL)
    (local / "large").write_bytes(LARGE)
    programs.run("s3cmd", "put", "small", f"{root}/{NAME}")
    programs.run("s3cmd", "put", "small", f"{root}/gone")
    programs.run("s3cmd", "put", "large", f"{root}/large")
    listed = programs.run("s3cmd", "ls", f"{root}/").decode()
    names = [line.split(None, 3)[-1] for line in listed.splitlines() if " DIR " not in line]
    assert names == [f"{root}/gone", f"{root}/large"]
    programs.run("s3cmd", "get", f"{root}/large", "back")
    assert (local / "back").read_bytes() == LARGE
    (local / "part").write_bytes(LARGE[:1000])
    programs.run("s3cmd", "get", "--continue", f"{root}/large", "part")
    assert (local / "part").read_bytes() == LARGE
    programs.run("s3cmd", "cp", f"{root}/{NAME}", f"{root}/copy")
    programs.run("s3cmd", "del", f"{root}/gone")
    programs.expect("s3cmd/", {NAME: SMALL, "copy": SMALL, "large": LARGE})


@pytest.mark.parametrize("name", ["s3fs", "minio", "smart_open"])
def test_a_library(programs: Programs, name: str) -> None:
    (programs.directory / "small").write_bytes(SMALL)
    (programs.directory / "large").write_bytes(LARGE)
    programs.session(f"{name}_session", f"{name}/", NAME)
    programs.expect(f"{name}/", {NAME: SMALL, "large": LARGE})


def test_duckdb(programs: Programs) -> None:
    """It writes Parquet, in parts too, reads columns by ranges, and finds files by a glob; it deletes nothing."""
    programs.session("duckdb_session", "duckdb/")
    for name, rows in (("a b", 1000), ("large", 500_000)):
        value = programs.stored(f"duckdb/{name}.parquet")
        assert polars.read_parquet(value)["n"].to_list() == [*range(rows)]


def test_pyarrow(programs: Programs) -> None:
    files = pyarrow.fs.S3FileSystem(
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, endpoint_override=programs.url, region="us-east-1"
    )
    root = f"{programs.bucket}/pyarrow"
    for name, value in ((NAME, SMALL), ("large", LARGE), ("gone", b"1")):
        with files.open_output_stream(f"{root}/{name}") as stream:
            stream.write(value)
    with files.open_input_stream(f"{root}/large") as stream:
        assert stream.read() == LARGE
    with files.open_input_file(f"{root}/large") as file:
        assert file.read_at(100, 100) == LARGE[100:200]
    files.delete_file(f"{root}/gone")
    assert files.get_file_info(f"{root}/gone").type == pyarrow.fs.FileType.NotFound
    found = files.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
    assert {each.path for each in found if each.is_file} == {f"{root}/{NAME}", f"{root}/large"}
    # A deleted file leaves an empty object for its folder, so that the folder does not disappear.
    programs.expect("pyarrow/", {"": b"", NAME: SMALL, "large": LARGE})


def test_polars(programs: Programs) -> None:
    options = {
        "aws_access_key_id": ACCESS_KEY,
        "aws_secret_access_key": SECRET_KEY,
        "aws_region": "us-east-1",
        "aws_endpoint_url": programs.url,
        "aws_allow_http": "true",
    }
    frame = polars.DataFrame({"n": range(10_000), "text": [f"{number:08}" for number in range(10_000)]})
    for name in ("a", "b"):
        frame.write_parquet(f"s3://{programs.bucket}/polars/{name}.parquet", storage_options=options)
    found = polars.scan_parquet(f"s3://{programs.bucket}/polars/*.parquet", storage_options=options)
    assert found.select("n").sum().collect().item() == 2 * sum(range(10_000))
    assert found.filter(polars.col("n") == 77).select("text").collect()["text"].to_list() == ["00000077"] * 2
    assert polars.read_parquet(programs.stored("polars/a.parquet")).equals(frame)
