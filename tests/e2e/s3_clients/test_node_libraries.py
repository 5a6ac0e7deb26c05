"""Libraries for Node.js, unchanged: their calls return the same at a node and at the router as at S3 itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mypy_boto3_s3 import S3Client

from tests.e2e.s3_clients.conftest import Endpoints
from tests.e2e.s3_clients.other_programs import MIB, SESSIONS, expect, value_of
from tests.support.npm.programs import NodeProgram, why_not
from tests.support.s3.moto_server import AWS_VARIABLES, MotoServer

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(why_not()), reason=why_not())]

SMALL, LARGE = value_of("small", 1024), value_of("large", 11 * MIB)
# One that has to be encoded in a path, a query and a header.
NAME = "a b+c/ä&=?.bin"

# What S3 replies where moto, which is S3 here, differs from it.
S3_ITSELF: dict[str, dict[str, Any]] = {
    "client_s3": {
        # It compares no checksums and no signatures, and has no sizes among the attributes.
        "wrong sum": [["BadDigest", 400]],
        "forged": [403],
        "attributes": [len(LARGE), "STANDARD"],
    },
    # Its list of the parts of an upload without any is not what this client reads.
    "minio": {"unfinished": [1]},
}
LEFT = {
    "client_s3": {
        NAME: SMALL,
        "commit": b"2",
        "empty": b"",
        "large": LARGE,
        "parts": LARGE[: 5 * MIB] + SMALL,
        "presigned": LARGE,
    },
    "minio": {
        NAME: SMALL,
        "commit": b"1",
        "composed": LARGE[: 6 * MIB] + SMALL,
        "empty": b"",
        "large": LARGE,
        "presigned": LARGE,
    },
}


@pytest.mark.parametrize("library", LEFT)
def test_its_calls_return_the_same(
    endpoints: Endpoints, moto: MotoServer, s3: S3Client, tmp_path: Path, library: str
) -> None:
    login, prefixes, programs = endpoints.variables(), [], []
    for where, url, bucket, variables in (
        ("S3", moto.endpoint_url, moto.new_bucket(), AWS_VARIABLES),
        ("node", endpoints.urls[0], endpoints.bucket, login),
        ("router", endpoints.urls[2], endpoints.bucket, login),
    ):
        directory, prefix = tmp_path / where, f"npm/{library}/{where}/"
        directory.mkdir()
        (directory / "small").write_bytes(SMALL)
        (directory / "large").write_bytes(LARGE)
        script, arguments = SESSIONS / f"{library}_session.js", (url, bucket, prefix, NAME)
        prefixes.append(prefix)
        programs.append(NodeProgram(script, *arguments, directory=directory, variables=variables))
    at_s3, at_node, at_router = (program.results() for program in programs)
    assert {call: at_s3[call] for call in S3_ITSELF[library]} != S3_ITSELF[library]
    expected = at_s3 | S3_ITSELF[library]
    assert at_node == expected
    assert at_router == expected
    for prefix in prefixes[1:]:
        expect(s3, endpoints.bucket, prefix, LEFT[library])
